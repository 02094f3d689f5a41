import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { createWorld, eventually, kafkaAnswers, needs } from '@shopsphere/bus/testing'
import { OPEN_HANDLES, plan } from './run.ts'
import { servers } from './servers.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const filesOf = (argv: string[]) =>
  plan(argv, {}, root)!
    .passes.flat()
    .filter((one) => !one.startsWith('--'))

test('without arguments every test file of the repository runs, those of packages elsewhere do not', () => {
  const files = filesOf([])
  for (const folder of ['bus', 'contracts', 'runtime', 'replay', 'test'])
    assert.ok(
      files.some((file) => file.startsWith(`${folder}/`)),
      folder,
    )
  assert.ok(files.includes('test/run.test.ts') && files.includes('bus/routing.test.ts'))
  assert.deepEqual(
    files.filter((file) => !file.endsWith('.test.ts') || file.includes('node_modules')),
    [],
  )
})

test('files, folders and patterns choose, each file once', () => {
  assert.deepEqual(filesOf(['test/run.test.ts', 'test/run*']), ['test/run.test.ts'])
  assert.ok(filesOf(['test']).includes('test/tidy.test.ts'))
  assert.ok(filesOf(['test']).every((file) => file.startsWith('test/')))
})

test('what stops servers, and holds what comes then to a time, runs after the rest and with less beside it; clusters run alone', () => {
  const passes = plan([], {}, root)!.passes
  const concurrencyOf = (file: string) =>
    passes.filter((pass) => pass.includes(file)).map((pass) => pass.find((word) => /concurrency/.test(word)))
  assert.deepEqual(
    passes
      .flat()
      .filter((word) => /concurrency/.test(word))
      .map((word) => word.at(-1)),
    ['3', '2', '1'],
  )
  for (const file of ['bus/testing/fault-suite-redis.test.ts', 'test/disk-full.test.ts', 'test/processes.test.ts'])
    assert.deepEqual(concurrencyOf(file), ['--test-concurrency=2'], file)
  assert.deepEqual(concurrencyOf('bus/testing/fault-cluster-kafka.test.ts'), ['--test-concurrency=1'])
  assert.deepEqual(concurrencyOf('bus/routing.test.ts'), ['--test-concurrency=3'])
  assert.equal(plan(['test/run.test.ts'], {}, root)!.passes.length, 1)
})

test('what is no test file is refused, and so is an unknown option', () => {
  for (const wrong of [['test/run.ts'], ['nowhere/*'], ['--fast']]) {
    assert.throws(() => plan(wrong, {}, root), { name: 'UsageError' })
  }
})

test('REQUIRE takes names of servers; those that no suite needs are told in one line', () => {
  assert.equal(plan([], { REQUIRE: '' }, root)!.notes.length, 0)
  assert.ok(plan([], { REQUIRE: servers.join(', ') }, root)!.notes.length <= 1)
  assert.throws(
    () => plan([], { REQUIRE: 'kafka,oracle' }, root),
    /'oracle'.*rabbitmq, kafka, redis, postgres, browser/,
  )
})

test('a wrong REQUIRE ends with status 2 before any test runs; --help with 0', () => {
  const run = (argv: string[], REQUIRE: string) =>
    spawnSync(process.execPath, ['test/run.ts', ...argv], {
      cwd: root,
      env: { ...process.env, REQUIRE },
      encoding: 'utf8',
    })
  const wrong = run([], 'postgress')
  assert.equal(wrong.status, 2)
  assert.match(wrong.stderr, /^npm test: REQUIRE names 'postgress'/)
  assert.equal(wrong.stdout, '')
  const help = run(['--help'], '')
  assert.equal(help.status, 0)
  assert.match(help.stdout, /^Usage: npm test/)
})

test('a file that leaves something open after its tests is told of and fails; the run goes on', async () => {
  await using world = await createWorld()
  const [open, next] = ['open', 'next'].map((name) => join(world.directory, `${name}.test.ts`)) as [string, string]
  writeFileSync(
    open,
    `import { test } from 'node:test'\ntest('leaves a timer', () => void setInterval(() => {}, 1_000))\n`,
  )
  writeFileSync(next, `import { test } from 'node:test'\ntest('comes next', () => {})\n`)
  const { NODE_TEST_CONTEXT: _, ...env } = process.env
  const words = plan([open, next], {}, root)!.passes[0]!
  const soon = words.map((word) => (word === `--import=${OPEN_HANDLES}` ? `${word}?graceMs=500` : word))
  assert.notDeepEqual(soon, words)
  const ran = spawnSync(process.execPath, soon, { cwd: root, env, encoding: 'utf8' })
  assert.equal(ran.status, 1, ran.stdout)
  assert.match(ran.stdout, /open\.test\.ts: its tests are done.*still open:.*Timeout/)
  assert.match(ran.stdout, /✔ comes next/)
  assert.match(ran.stdout, /✖ \S*open\.test\.ts/)
})

test('a file that runs in a circle, or waits before its first test, is killed with what it started, and told of; the run goes on', {
  skip: process.platform !== 'linux' && 'looks into /proc',
}, async () => {
  await using world = await createWorld()
  const texts = {
    circle: "test('goes round', async () => {\n  while (true) await null\n})",
    other: "test('comes next', () => {})",
    waits:
      "import { spawn } from 'node:child_process'\nspawn('sleep', ['300'], { stdio: 'inherit' })\nawait new Promise(() => {})\ntest('never', () => {})",
  }
  const files = Object.entries(texts).map(([name, text]) => {
    const path = join(world.directory, `${name}.test.ts`)
    writeFileSync(path, `import { test } from 'node:test'\n${text}\n`)
    return path
  })
  const { NODE_TEST_CONTEXT: _, ...env } = process.env
  const program = `import { plan, run } from ${JSON.stringify(new URL('run.ts', import.meta.url).href)}
const root = ${JSON.stringify(root)}
process.exitCode = await run(plan(${JSON.stringify(files)}, {}, root), root, 3_000)`
  const ran = spawnSync(process.execPath, ['--input-type=module', '--eval', program], {
    env,
    encoding: 'utf8',
    timeout: 60_000,
  })
  assert.equal(ran.status, 1, ran.stdout)
  const worked = (name: string) =>
    Number(
      new RegExp(`${name}\\.test\\.ts: .* after 3 s, of which it worked ([\\d.]+) s; it is killed`).exec(
        ran.stderr,
      )?.[1],
    )
  assert.ok(worked('circle') > worked('waits'), ran.stderr)
  assert.match(ran.stdout, /✔ comes next/)
  for (const name of ['circle', 'waits']) assert.match(ran.stdout, new RegExp(`✖ \\S*${name}\\.test\\.ts`))
})

const { skip } = await needs('kafka')

test('one Kafka serves all files of a run and ends with it, also when one fails or is interrupted; a file by itself starts its own', {
  skip,
}, async () => {
  await using world = await createWorld()
  const file = (name: string, last: string) => {
    const path = join(world.directory, `${name}.test.ts`)
    writeFileSync(
      path,
      `import { writeFileSync } from 'node:fs'
import { needs } from ${JSON.stringify(new URL('../bus/testing/servers/needs.ts', import.meta.url).href)}
const { url } = await needs('kafka')
writeFileSync(${JSON.stringify(`${path}.url`)}, url)
${last}
`,
    )
    return path
  }
  const urlOf = (path: string) => readFileSync(`${path}.url`, 'utf8')
  const answers = (url: string) => kafkaAnswers(Number(new URL(url).port))
  const { KAFKA_URL: _, NODE_TEST_CONTEXT: __, ...env } = process.env
  const begin = (...argv: string[]) => spawn(process.execPath, argv, { cwd: root, env, stdio: 'ignore' })

  const [one, two, endless] = [
    file('one', ''),
    file('two', 'process.exit(1)'),
    file('endless', 'setInterval(() => {}, 1_000)'),
  ]
  const failing = begin('test/run.ts', one, two)
  assert.deepEqual(await once(failing, 'exit'), [1, null])
  assert.match(urlOf(one), /^kafka:/)
  assert.equal(urlOf(one), urlOf(two))
  assert.equal(await answers(urlOf(one)), false, 'it ended with the run')

  const interrupted = begin('test/run.ts', endless)
  await eventually(() => existsSync(`${endless}.url`) && urlOf(endless) !== '', {
    timeoutMs: 60_000,
    message: 'the file should run',
  })
  assert.equal(await answers(urlOf(endless)), true)
  interrupted.kill('SIGINT')
  await once(interrupted, 'exit')
  assert.equal(await answers(urlOf(endless)), false, 'it ended with the interrupted run')

  const byItself = begin('--test', one)
  assert.deepEqual(await once(byItself, 'exit'), [0, null])
  assert.notEqual(urlOf(one), urlOf(two))
})
