import { createClient } from 'redis'
import { transportSuite } from '../testing/transport-suite.ts'
import type { World } from '../testing/world.ts'
import { redisTransport } from './redis.ts'

const url = process.env['REDIS_URL'] ?? 'redis://127.0.0.1:6379'

transportSuite('redis', {
  open: (world) => {
    clean(world)
    return redisTransport(url, { prefix: world.name })
  },
})

/** Once a world: its keys go when it ends. */
function clean(world: World): void {
  world.share('clean', () =>
    world.defer(async () => {
      const client = createClient({ url })
      await client.connect()
      const keys = await client.keys(`{${world.name}}:*`)
      if (keys.length > 0) await client.del(keys)
      client.destroy()
    }),
  )
}
