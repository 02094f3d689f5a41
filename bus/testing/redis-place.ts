/** A place on the Redis server that tests share: a prefix of one's own, and nothing left of it afterwards. */
import { createClient } from 'redis'
import type { World } from './world.ts'

export const redisUrl = process.env['REDIS_URL'] ?? 'redis://127.0.0.1:6379'

/** Deletes what stands below the world's prefix when the world ends; asking twice is fine. */
export function withoutTrace(world: World, url = redisUrl): void {
  world.share('without trace', () => world.defer(() => removeAll(url, world.name)))
}

/** Deletes all keys of a prefix. */
export async function removeAll(url: string, prefix: string): Promise<void> {
  const client = createClient({ url })
  await client.connect()
  const keys = await client.keys(`{${prefix}}:*`)
  if (keys.length > 0) await client.del(keys)
  client.destroy()
}
