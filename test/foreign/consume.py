"""Prints so many messages of a plain queue, one line each, and acknowledges each after that: consume.py URL QUEUE COUNT"""
import json
import sys

import pika

url, queue, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.queue_declare(queue=queue)
channel.basic_qos(prefetch_count=1)
seen = 0


def handle(channel, method, properties, body):
    global seen
    try:
        event = json.loads(body)
        print(event["order_id"], event["customer_email"], event["timestamp"], flush=True)
        channel.basic_ack(delivery_tag=method.delivery_tag)
    except (ValueError, KeyError):
        channel.basic_nack(delivery_tag=method.delivery_tag, requeue=False)
    seen += 1
    if seen == count:
        channel.stop_consuming()


channel.basic_consume(queue=queue, on_message_callback=handle)
channel.start_consuming()
connection.close()
