"""The parts that the backends for Amazon's SQS and SNS share.

backend      options, and the contract
connection   a client, and the threads that make its calls
sender       which entries go together, and how many calls are in flight
entries      how an event is written as one entry of a batch call
errors       what an answer means
"""
