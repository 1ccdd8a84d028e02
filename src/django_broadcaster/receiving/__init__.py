"""The threads that read brokers: receive, write, acknowledge."""
