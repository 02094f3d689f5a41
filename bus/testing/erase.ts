/** What a run made behind its own prefix, on servers that others use too, and that nobody needs when it has ended. */

/** Deletes queues and exchanges, topics or streams. @param prefix as it was given to the transport; never empty */
export async function eraseBroker(url: string, prefix: string): Promise<void> {
  refuseEmpty(prefix)
  switch (schemeOf(url)) {
    case 'amqp':
    case 'amqps':
      return (await import('./rabbitmq-place.ts')).eraseRabbitmq(url, prefix)
    case 'kafka':
      return (await import('./kafka-world.ts')).deleteTopics(url, prefix)
    case 'redis':
    case 'rediss':
      return (await import('./redis-place.ts')).removeAll(url, `{${prefix}}:*`)
  }
}

/** Drops the schemas of a PostgreSQL database whose names begin so. */
export async function eraseDatabase(url: string, prefix: string): Promise<void> {
  refuseEmpty(prefix)
  if (!/^postgres(ql)?$/.test(schemeOf(url))) return
  const { dropSchemas, schemasBehind } = await import('./postgres-world.ts')
  await dropSchemas(await schemasBehind(prefix, url), url)
}

const schemeOf = (url: string) => url.slice(0, url.indexOf(':')).toLowerCase()

function refuseEmpty(prefix: string): void {
  if (prefix === '') throw new RangeError('without a prefix, everything on the server would be deleted')
}
