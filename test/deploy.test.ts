/**
 * The files for containers, held against the program: what they run is run here as it stands, without an engine, and
 * every name in them is looked up where it is kept.
 */
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { basename, delimiter, dirname, join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { createWorld, eventually, freePort } from '@shopsphere/bus/testing'
import { fileSecrets } from '@shopsphere/runtime/secrets'
import { Ajv } from 'ajv'
import { parse, parseAllDocuments } from 'yaml'
import { allServices } from '../shop.ts'
import { type MainProcess, startMain } from './main-process.ts'
import { customerOf, operator } from './shop-customer.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const read = (path: string) => readFileSync(join(root, path), 'utf8')
const names = allServices.map(({ name }) => name)
/** A test asserts what is inside. */
type Parsed = any

const composeFile = () => parse(read('deploy/compose.yaml'), { merge: true }) as Parsed
/** The schema of the Compose specification, as a linter for such files brings it along. */
const { $schema: _dialect, ...composeSchema } = JSON.parse(read('node_modules/dclint/schemas/compose.schema.json'))
const composeValidator = new Ajv({ strict: false, validateFormats: false }).compile(composeSchema)
const isValidCompose = (compose: Parsed): boolean => composeValidator(compose)

const manifests = (): Parsed[] =>
  readdirSync(join(root, 'deploy/kubernetes')).flatMap((file) =>
    parseAllDocuments(read(`deploy/kubernetes/${file}`)).map((document) => {
      assert.deepEqual(document.errors, [], file)
      return document.toJS()
    }),
  )
const ofKind = (kind: string) => manifests().filter((manifest) => manifest.kind === kind)
const byName = (kind: string) => new Map(ofKind(kind).map((manifest) => [manifest.metadata.name as string, manifest]))

/** Those of the shop's own containers: what Compose, or Kubernetes with its ConfigMap, tells them. */
function shopEnvironments(): Map<string, Record<string, string>> {
  const found = new Map<string, Record<string, string>>()
  for (const [name, service] of Object.entries<Parsed>(composeFile().services))
    if (service.image === 'shopsphere:latest') found.set(`compose ${name}`, service.environment)
  for (const [name, { spec }] of byName('Deployment')) {
    const [container] = spec.template.spec.containers
    const config = container.envFrom.map(({ configMapRef }: Parsed) => byName('ConfigMap').get(configMapRef.name).data)
    const own = container.env.map(({ name, value }: Parsed) => [name, value])
    found.set(`kubernetes ${name}`, Object.assign({}, ...config, Object.fromEntries(own)))
  }
  return found
}

/** What runtime/config.ts reads, and the files that secrets may be in. */
const knownVariables = new Set([
  ...[...read('runtime/config.ts').matchAll(/^ {4}([A-Z][A-Z_]+): /gm)].map(([, name]) => name!),
  ...fileSecrets.map((name) => `${name}_FILE`),
])

test('the compose file is valid by the schema of the Compose specification, which refuses what is wrong', () => {
  const compose = composeFile()
  assert.ok(isValidCompose(compose), JSON.stringify(composeValidator.errors, null, 1))
  assert.equal(isValidCompose({ ...compose, services: { ...compose.services, order: { imagee: 'x' } } }), false)
})

test('every Kubernetes manifest is valid by the schema of its kind, which refuses what is wrong', async () => {
  const validate = async ({ apiVersion, kind, ...rest }: Parsed) => {
    const models = await import(`kubernetes-models/${apiVersion}`)
    new models[kind](rest).validate()
  }
  for (const manifest of manifests()) await validate(manifest)
  const [deployment] = ofKind('Deployment')
  delete deployment.spec.selector
  await assert.rejects(validate(deployment), /selector/)
})

/** The schemas let unknown fields pass; the compiler does not, in a literal. Answers what it says. */
function compile(all: readonly Parsed[]): string {
  const folder = join(root, 'node_modules/.cache', `manifests-${process.pid}`)
  mkdirSync(folder, { recursive: true })
  try {
    const lines = all.map(({ apiVersion, kind, ...rest }, index) => {
      const literal = JSON.stringify({ apiVersion, kind, ...rest })
      return `import type { I${kind} as Kind${index} } from 'kubernetes-models/${apiVersion}'\nexport const manifest${index}: Kind${index} = ${literal}`
    })
    writeFileSync(join(folder, 'manifests.ts'), lines.join('\n'))
    const compilerOptions = { noEmit: true, strict: true, skipLibCheck: true, module: 'nodenext', types: [] }
    writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['manifests.ts'] }))
    const compiler = join(root, 'node_modules/typescript/bin/tsc')
    const { stdout } = spawnSync(process.execPath, [compiler], { cwd: folder, encoding: 'utf8', timeout: 60_000 })
    return stdout
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

test('every field of a manifest is one that Kubernetes knows, and a misspelt one is found', () => {
  assert.equal(compile(manifests()), '')
  const [deployment] = ofKind('Deployment')
  const [container] = deployment.spec.template.spec.containers
  container.livenesProbe = container.livenessProbe
  assert.match(compile([deployment]), /livenesProbe/)
})

test('every variable that a container is told is one that the program reads', () => {
  const environments = shopEnvironments()
  assert.equal(environments.size, 2 * names.length)
  assert.ok(knownVariables.has('PORT') && knownVariables.has('TOKEN_SECRET_FILE'))
  for (const [where, environment] of environments)
    for (const name of Object.keys(environment)) assert.ok(knownVariables.has(name), `${where}: ${name}`)
})

test('every service runs in exactly one kind of container, and the gateway knows where each of the others is', () => {
  for (const kind of ['compose', 'kubernetes']) {
    const all = [...shopEnvironments()].filter(([where]) => where.startsWith(kind))
    const running = new Map(all.map(([where, { SERVICES }]) => [SERVICES, where.split(' ')[1]]))
    assert.deepEqual([...running.keys()].sort(), names.toSorted())
    const gateway = all.find(([where]) => where === `${kind} gateway`)![1]
    const urls = gateway.SERVICE_URLS!.split(/,\s*/).map((pair) => pair.split('='))
    assert.deepEqual(
      urls.toSorted(),
      names
        .filter((name) => name !== gateway.SERVICES)
        .map((name) => [name, `http://${running.get(name)}:3000`])
        .toSorted(),
    )
  }
})

test('ports agree: what is exposed, probed, published and passed on', () => {
  const port = /^EXPOSE (\d+)$/m.exec(read('Containerfile'))![1]
  assert.match(read('Containerfile'), new RegExp(`^ENV .*\\bPORT=${port}\\b`, 'm'))
  assert.ok(composeFile().services.gateway.ports.every((published: string) => published.endsWith(`:${port}`)))
  assert.equal(byName('ConfigMap').get('shop').data.PORT, port)
  for (const [name, { spec }] of byName('Deployment')) {
    const [container] = spec.template.spec.containers
    assert.deepEqual(container.ports, [{ name: 'http', containerPort: Number(port) }], name)
    for (const [probe, path] of [
      ['startupProbe', '/health/live'],
      ['livenessProbe', '/health/live'],
      ['readinessProbe', '/health/ready'],
    ] as const)
      assert.deepEqual(container[probe].httpGet, { path, port: 'http' }, `${name} ${probe}`)
    assert.equal(byName('Service').get(name).spec.ports[0].port, Number(port), name)
  }
})

test('profiles, volumes, secrets and dependencies name what is there; each broker has its profile', () => {
  const { services, volumes, secrets } = composeFile()
  const profiles = Object.entries<Parsed>(services).flatMap(([name, { profiles = [] }]) =>
    profiles.map((one: string) => [one, name]),
  )
  assert.deepEqual(profiles.sort(), [
    ['kafka', 'kafka'],
    ['rabbitmq', 'rabbitmq'],
    ['redis', 'redis'],
  ])
  for (const [name, service] of Object.entries<Parsed>(services)) {
    for (const other of Object.keys(service.depends_on ?? {}))
      assert.ok(services[other]?.healthcheck, `${name}: ${other}`)
    for (const secret of service.secrets ?? []) assert.ok(secret in secrets, `${name}: ${secret}`)
    for (const volume of service.volumes ?? []) assert.ok(volume.split(':')[0] in volumes, `${name}: ${volume}`)
    for (const [variable, value] of Object.entries<string>(service.environment ?? {}))
      if (value.startsWith('/run/secrets/'))
        assert.ok(service.secrets.includes(basename(value)), `${name}: ${variable} is not mounted`)
  }
})

test('Kubernetes: what selects, scales and mounts finds its Deployment; no process is root or may write its own files', () => {
  const deployments = byName('Deployment')
  const secretKeys = Object.keys(byName('Secret').get('shop').stringData)
  for (const [name, { spec }] of deployments) {
    const { labels } = spec.template.metadata
    const picks = [
      spec.selector.matchLabels,
      byName('Service').get(name).spec.selector,
      byName('PodDisruptionBudget').get(name).spec.selector.matchLabels,
    ]
    for (const pick of picks)
      for (const [label, value] of Object.entries(pick)) assert.equal(labels[label], value, name)
    const scaler = byName('HorizontalPodAutoscaler').get(name).spec
    assert.deepEqual(scaler.scaleTargetRef, { apiVersion: 'apps/v1', kind: 'Deployment', name })
    const { metric } = scaler.metrics[0].external
    const environment = shopEnvironments().get(`kubernetes ${name}`)!
    assert.deepEqual(metric, {
      name: 'bus_backlog_messages',
      selector: { matchLabels: { service: environment.SERVICES } },
    })
    const pod = spec.template.spec
    const [container] = pod.containers
    assert.deepEqual([pod.securityContext.runAsNonRoot, container.securityContext.readOnlyRootFilesystem], [true, true])
    for (const { name: volume } of container.volumeMounts)
      assert.ok(
        pod.volumes.some((one: Parsed) => one.name === volume),
        volume,
      )
    for (const [variable, value] of Object.entries(environment))
      if (value.startsWith('/run/secrets/')) assert.ok(secretKeys.includes(basename(value)), `${name}: ${variable}`)
  }
  const [ingress] = ofKind('Ingress')
  for (const { backend } of ingress.spec.rules[0].http.paths) assert.ok(deployments.has(backend.service.name))
})

test('no secret stands in a file: each is taken from the environment of whoever starts it', () => {
  for (const [name, value] of Object.entries<string>(ofKind('Secret')[0].stringData)) assert.equal(value, `\${${name}}`)
  for (const [name, secret] of Object.entries<Parsed>(composeFile().secrets))
    assert.deepEqual(secret, { environment: name.toUpperCase() })
  for (const [where, environment] of shopEnvironments())
    for (const name of fileSecrets) assert.ok(!(name in environment), `${where}: ${name}`)
})

// --- the image, without an engine ---

type Step = { word: string; rest: string }

function stepsOf(stage: 'packages' | 'last'): Step[] {
  const lines = read('Containerfile')
    .split('\n')
    .filter((line) => /^[A-Z]/.test(line))
  const steps = lines.map((line) => ({
    word: line.slice(0, line.indexOf(' ')),
    rest: line.slice(line.indexOf(' ') + 1),
  }))
  const second = steps.findLastIndex(({ word }) => word === 'FROM')
  return stage === 'packages' ? steps.slice(0, second) : steps.slice(second)
}

const only = (stage: 'packages' | 'last', word: string) => stepsOf(stage).find((step) => step.word === word)!.rest

/** The files that COPY names, as it lays them; those of another stage are there already. */
function copyFiles(stage: 'packages' | 'last', folder: string): void {
  for (const { word, rest } of stepsOf(stage)) {
    if (word !== 'COPY' || rest.startsWith('--from=')) continue
    const paths = rest.split(' ')
    const target = paths.pop()!
    for (const path of paths) {
      const isFolder = !path.includes('.')
      const to = isFolder ? join(folder, target) : join(folder, target, basename(path))
      mkdirSync(dirname(to), { recursive: true })
      const wanted = (one: string) => !one.endsWith('.test.ts') && basename(one) !== 'node_modules'
      cpSync(join(root, path), to, { recursive: true, filter: wanted })
    }
  }
}

test('the image: its files with production packages alone start by its own command, answer the probes, pass its health check and end with 0', {
  timeout: 180_000,
}, async () => {
  await using world = await createWorld()
  const image = join(world.directory, 'image')
  mkdirSync(image)
  const path = `${dirname(process.execPath)}${delimiter}${process.env.PATH}`
  copyFiles('packages', image)
  const [program, ...parameters] = only('packages', 'RUN').split(' ')
  execFileSync(program!, parameters, {
    cwd: image,
    env: { ...process.env, PATH: path, npm_config_prefer_offline: 'true' },
    stdio: 'pipe',
    timeout: 150_000,
  })
  copyFiles('last', image)
  const installed = readdirSync(join(image, 'node_modules'))
  assert.deepEqual(
    ['typescript', 'dclint', 'kubernetes-models'].filter((name) => installed.includes(name)),
    [],
  )

  const secret = join(world.directory, 'secret')
  writeFileSync(secret, '0123456789abcdef0123456789abcdef\n')
  const settings = Object.fromEntries(
    only('last', 'ENV')
      .split(' ')
      .map((pair) => pair.split('=')),
  )
  const environment = {
    ...settings,
    PATH: path,
    PORT: String(await freePort()),
    DATA_DIR: join(world.directory, 'data'),
    TOKEN_SECRET_FILE: secret,
    ADMIN_PASSWORD_FILE: secret,
  }
  const command = JSON.parse(only('last', 'CMD'))
  await using main = startMain(environment, { folder: image, command })
  const url = await main.answers()
  const deployment = byName('Deployment').get('gateway').spec.template.spec.containers[0]
  for (const probe of ['startupProbe', 'livenessProbe', 'readinessProbe'])
    assert.equal((await fetch(`${url}${deployment[probe].httpGet.path}`)).status, 200, probe)
  assert.match(await (await fetch(`${url}/metrics`)).text(), /^bus_backlog_messages\{[^}]*service="order"/m)
  for (const { path: address } of ofKind('Ingress')[0].spec.rules[0].http.paths.filter(
    ({ pathType }: Parsed) => pathType === 'Exact',
  ))
    assert.equal((await fetch(`${url}${address}`)).status, 200, address)

  const [look, ...lookParameters] = JSON.parse(/CMD (\[.*)$/.exec(only('last', 'HEALTHCHECK'))![1]!)
  const health = (port: string) =>
    execFileSync(look, lookParameters, { env: { PATH: path, PORT: port }, stdio: 'pipe' })
  health(environment.PORT)
  main.child.kill(only('last', 'STOPSIGNAL') as NodeJS.Signals)
  assert.equal(await main.exited, 0, main.out.stderr)
  assert.throws(() => health(environment.PORT), { status: 1 })
})

test('the containers of the compose file, as processes on one folder: an order goes through all of them to its delivery', {
  timeout: 180_000,
}, async () => {
  await using world = await createWorld()
  const secret = (name: string, text: string) => {
    writeFileSync(join(world.directory, name), text)
    return join(world.directory, name)
  }
  const local = {
    DATA_DIR: join(world.directory, 'data'),
    BROKER_URL_FILE: secret('broker_url', 'sqlite:'),
    DATABASE_URL_FILE: secret('database_url', 'sqlite:'),
    TOKEN_SECRET_FILE: secret('token_secret', '0123456789abcdef0123456789abcdef'),
    LOG_LEVEL: 'warn',
    PICKING_GRACE_MS: '0',
    CARRIER_DELAY_MS: '0',
  }
  const started: MainProcess[] = []
  const begin = async (environment: Record<string, string>) => {
    const main = startMain({ ...environment, ...local })
    started.push(main)
    world.defer(() => main[Symbol.asyncDispose]())
    return main.answers()
  }
  const containers = [...shopEnvironments()].filter(([where]) => where.startsWith('compose'))
  const urls = new Map<string, string>()
  for (const [where, environment] of containers)
    if (where !== 'compose gateway') urls.set(environment.SERVICES!, await begin(environment))
  const url = await begin({
    ...containers.find(([where]) => where === 'compose gateway')![1],
    SERVICE_URLS: [...urls].map((pair) => pair.join('=')).join(','),
    ADMIN_PASSWORD_FILE: secret('admin_password', operator.password),
    TRUST_PROXY: 'no',
  })
  assert.equal(started.length, names.length)

  const { send, place, stock } = customerOf(url)
  await stock()
  let orderId: string | undefined
  await eventually(async () => {
    orderId = (await place('order-1')).body.orderId // until the order service has heard of the product
    return orderId
  })
  const delivered = async () => (await send('GET', `/api/orders/${orderId}`)).body.status === 'delivered'
  await eventually(delivered, { timeoutMs: 60_000, message: 'the order is delivered' })
  for (const { child } of started) child.kill('SIGTERM')
  assert.deepEqual(
    await Promise.all(started.map(({ exited }) => exited)),
    started.map(() => 0),
  )
})

test('the image is not run as root, and refuses to start in production without its secrets, saying what to set', async () => {
  assert.match(only('last', 'USER'), /^[1-9]\d*:[1-9]\d*$/)
  await using world = await createWorld()
  await using main = startMain({ NODE_ENV: 'production', DATA_DIR: world.directory, BROKER_URL: 'sqlite:' })
  assert.equal(await main.exited, 2)
  assert.match(main.out.stderr, /TOKEN_SECRET has to be set/)
  assert.match(main.out.stderr, /ADMIN_PASSWORD has to be set/)
  assert.deepEqual(readdirSync(world.directory), [])
})
