/** The names of everything that the transport keeps on the server; all in one hash slot. */
export type RedisKeys = ReturnType<typeof keysOf>

export function keysOf(prefix: string, shards: number) {
  const base = `{${prefix}}:`
  return {
    /** Hash: shards, instance. */
    settings: `${base}settings`,
    /** Hash: subscription → its bindings, and whose it is where it is ephemeral. */
    subscriptions: `${base}subscriptions`,
    /** Sorted set: process → alive until. */
    processes: `${base}processes`,
    /** Stream: which subscription changed. */
    control: `${base}control`,
    /** Streams: the log, one for each shard. */
    streams: Array.from({ length: shards }, (_, shard) => `${base}log:${shard}`),
    /** Sorted set: member → alive until; hash: owner, epoch, suspect and reach of each shard. */
    members: (subscription: string): [members: string, leases: string] => [
      `${base}members:${subscription}`,
      `${base}leases:${subscription}`,
    ],
  }
}
