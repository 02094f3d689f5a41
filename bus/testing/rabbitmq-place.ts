/** Where a world's things stand on a real RabbitMQ, and how they go away with it. */
import { connect } from 'amqplib'
import { rabbitmqTransport } from '../transports/rabbitmq.ts'
import { namesOf } from '../transports/rabbitmq-topology.ts'
import type { World } from './world.ts'

/** The world's own prefix; whatever was made behind it is deleted when the world ends. */
export function rabbitmqPrefix(world: World, url: string): string {
  const prefix = `${world.name}.`
  return world.share('rabbitmq prefix', () => {
    world.defer(() => eraseRabbitmq(url, prefix))
    return prefix
  })
}

/** Deletes all subscriptions and exchanges behind the prefix. */
export async function eraseRabbitmq(url: string, prefix: string): Promise<void> {
  const transport = rabbitmqTransport(url, { prefix })
  await transport.open()
  for (const name of await transport.subscriptions()) await transport.remove(name)
  await transport.close()
  const names = namesOf(prefix, 'platform-events')
  const model = await connect(url)
  const channel = await model.createChannel()
  for (const exchange of [names.events, names.headers, names.dead, names.control])
    await channel.deleteExchange(exchange)
  await channel.deleteQueue(names.registry)
  await model.close()
}
