/** A place on a Redis server that tests share: a prefix of one's own, and nothing left of it afterwards. */
import { createClient } from 'redis'
import type { World } from './world.ts'

/** Deletes what stands below the world's prefix when the world ends; asking twice is fine. */
export function withoutTrace(world: World, url: string): void {
  world.share('without trace', () => world.defer(() => removeAll(url, `{${world.name}}:*`)))
}

/** Deletes all keys that match the pattern. */
export async function removeAll(url: string, pattern: string): Promise<void> {
  const client = createClient({ url })
  await client.connect()
  const keys = await client.keys(pattern)
  if (keys.length > 0) await client.del(keys)
  client.destroy()
}
