"""Publishes each line of its input to a plain queue, through the default exchange: publish.py URL QUEUE"""
import sys

import pika

url, queue = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.queue_declare(queue=queue)
for line in sys.stdin:
    channel.basic_publish(exchange="", routing_key=queue, body=line.rstrip("\n").encode())
connection.close()
