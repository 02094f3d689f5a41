import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { plan } from './run.ts'
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

test('what stops servers and kills processes runs one file at a time, after the rest', () => {
  const [together, alone] = plan([], {}, root)!.passes
  assert.ok(together!.includes('--test-concurrency=2') && alone!.includes('--test-concurrency=1'))
  for (const file of ['bus/testing/fault-suite-redis.test.ts', 'test/processes.test.ts', 'outage/outage.test.ts'])
    assert.ok(alone!.includes(file) && !together!.includes(file), file)
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
