/** Servers that some test suites talk to. Such a suite is skipped by name where its server cannot be had here, unless REQUIRE names it. */
export const servers = ['rabbitmq', 'kafka', 'redis', 'postgres', 'browser'] as const
export type Server = (typeof servers)[number]

/** Which servers have a suite today; a suite that needs one adds it here. */
export const serversWithSuites: readonly Server[] = ['rabbitmq', 'kafka', 'redis', 'postgres']

/** The servers that REQUIRE names, each once. Throws an Error that says what may stand there. */
export function requiredServers(text = ''): Server[] {
  const names = text
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '')
  const unknown = names.filter((name) => !servers.some((server) => server === name))
  if (unknown.length === 0) return [...new Set(names as Server[])]
  throw new Error(
    `REQUIRE names ${unknown.map((name) => `'${name}'`).join(', ')}: it takes names separated by commas, of ${servers.join(', ')}`,
  )
}
