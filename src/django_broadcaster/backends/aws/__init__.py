"""What Amazon's SQS and SNS have in common.

entries   how an event is written as one entry of a batch call
sender    which entries go together, and how many calls are on their way
errors    what an answer means
backend   options, client, and the contract
"""
