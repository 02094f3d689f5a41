import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { errorCodes } from '@shopsphere/bus'
import { problemCodes } from '@shopsphere/runtime/problem'
import { readRepository, rules, type TextFile } from './tidy-rules.ts'

/**
 * What breaks a rule today and has a reason to. The list only shrinks: an entry that breaks nothing any more fails, and
 * so does a new offence that is not in it.
 */
const offenders: readonly { rule: string; path: string; why: string }[] = [
  { rule: 'noMachine', path: 'runtime/config.test.ts', why: 'absolute paths that are read and never opened' },
]

const repository = readRepository(fileURLToPath(new URL('..', import.meta.url)))

for (const [name, rule] of Object.entries(rules)) {
  test(`tidy: ${name}`, () => {
    const excused = offenders.filter((offender) => offender.rule === name).map(({ path }) => path)
    const findings = rule(repository)
    const shown = findings
      .filter(({ path }) => !excused.includes(path))
      .map(({ path, line, what }) => `${path}:${line}: ${what}`)
    assert.deepEqual(shown, [])
    const reformed = excused.filter((path) => !findings.some((finding) => finding.path === path))
    assert.deepEqual(reformed, [], 'these keep the rule now: take them off the list of offenders')
  })
}

const file = (path: string, text: string): TextFile => ({ path, text })
const busWithPeer = file('bus/package.json', '{"name":"@shopsphere/bus","peerDependencies":{"amqplib":"2"}}')
const bus = file('bus/package.json', '{"name":"@shopsphere/bus","dependencies":{"croner":"1"}}')
const numbers = [
  ...Array(15)
    .keys()
    .map((index) => `B${index + 1}`),
  ...Array(8)
    .keys()
    .map((index) => `I${index + 1}`),
]
const allTitles = numbers.map((number) => `test('${number} holds', run)`).join('\n')
const documented = (except: string[] = [], more: string[] = []) => {
  const bus = Object.keys(errorCodes).filter((code) => !except.includes(code))
  const http = Object.entries(problemCodes).filter(([code]) => !except.includes(code))
  return [
    '## Errors of the bus',
    ...[...bus, ...more].map((code) => `| \`${code}\` | … |`),
    '## Problems of the HTTP API',
    ...http.map(([code, { status }]) => `| \`${code}\` | ${status} | … |`),
  ].join('\n')
}

/** For each rule: files that break it, with how often; and files that come close and do not. */
const examples: Record<string, { bad: [TextFile[], times: number][]; good: TextFile[][] }> = {
  importDirection: {
    bad: [
      [[file('bus/a.ts', "import { x } from '@shopsphere/contracts'")], 1],
      [[file('bus/a.ts', "import { x } from '../runtime/log.ts'")], 1],
      [[file('contracts/a.ts', "import type { X } from '@shopsphere/runtime/log'")], 1],
      [[file('runtime/a.ts', "export { x } from '@shopsphere/contracts'")], 1],
      [[file('services/order/a.ts', "import { x } from '../payment/payment.ts'")], 1],
      [[file('services/order/a.ts', "import { x } from '@shopsphere/services/payment/payment.ts'")], 1],
      [[file('services/order/a.ts', "const x = await import('../../main.ts')")], 1],
      [[file('services/fields.ts', "import { x } from './order/order.ts'")], 1],
      [[file('replay/a.ts', "import { x } from '../test/b.ts'")], 1],
      [[file('replay/a.ts', "import { x } from '../bus/bus.ts'")], 1],
      [[file('bus/a.ts', "import { x } from '@shopsphere/bus'")], 1],
      [[file('elsewhere/a.ts', '')], 1],
    ],
    good: [
      [file('services/order/a.ts', "import { x } from '../fields.ts'\nimport { y } from './b.ts'")],
      [file('services/order/a.ts', "import { x } from '@shopsphere/contracts/order' // from '../payment/a.ts'")],
      [file('main.ts', "import { x } from './services/order/service.ts'\nimport { y } from '@shopsphere/bus/testing'")],
      [file('bench/a.ts', "import { x } from '../main.ts'")],
      // biome-ignore lint/suspicious/noTemplateCurlyInString: a template as source text
      [file('bus/a.ts', 'const text = sql`${from}, ${to}` + `from ${x}`')],
      [file('bus/stores/a.ts', "import { x } from '../b.ts'\nconst text = \"import x from '../../main.ts'\"")],
    ],
  },
  declaredPackages: {
    bad: [
      [[bus, file('bus/a.ts', "import { z } from 'zod'")], 1],
      [
        [file('services/package.json', '{"name":"s"}'), file('services/a/b.ts', "import { x } from '@hono/zod/deep'")],
        1,
      ],
      [[bus, file('bus/a.ts', "import fs from 'fs'")], 1],
      [[busWithPeer, file('bus/a.ts', "import amqp from 'amqplib'")], 1],
      [[busWithPeer, file('bus/transports/a.ts', "import pg from 'pg'")], 1],
    ],
    good: [
      [bus, file('bus/a.ts', "import { Cron } from 'croner'\nimport fs from 'node:fs'\nimport { b } from './b.ts'")],
      [busWithPeer, file('bus/transports/a.ts', "import amqp from 'amqplib'")],
      [
        file('services/package.json', '{"name":"s","dependencies":{"@hono/zod":"1"}}'),
        file('services/a/b.ts', "import { x } from '@hono/zod/deep'\nimport { y } from '@shopsphere/bus'"),
      ],
    ],
  },
  namesOfFiles: {
    bad: [
      [[file('bus/utils.ts', '')], 1],
      [[file('services/common/a.ts', '')], 1],
      [[file('runtime/date-helpers.ts', '')], 1],
      [[file('contracts/order.types.ts', '')], 1],
    ],
    good: [[file('runtime/commons.ts', ''), file('services/prototypes/a.ts', '')]],
  },
  namesOfThings: {
    bad: [
      [[file('bus/a.ts', 'class ConnectionManager {}')], 1],
      [[file('bus/a.ts', 'const { sqlHelper, orderDto } = x; type OrderDTO = 1')], 3],
    ],
    good: [
      [
        file(
          'bus/a.ts',
          "const processManager = createProcessManager('Helper') // the Manager\naddToCart(dtors, manager)",
        ),
      ],
    ],
  },
  documentedErrors: {
    bad: [
      [[], 1],
      [[file('docs/errors.md', documented(['fenced']))], 1],
      [[file('docs/errors.md', documented(['already_exists']))], 1],
      [[file('docs/errors.md', documented([], ['made_up']))], 1],
      [[file('docs/errors.md', documented().replace('| 409 |', '| 408 |'))], 1],
    ],
    good: [[file('docs/errors.md', documented())]],
  },
  documentedSettings: {
    bad: [
      [
        [
          file('runtime/config.ts', '    PORT: whole(3000),\n    HOST: text,'),
          file('README.md', '## Settings\n| `PORT` | 3000 |'),
        ],
        1,
      ],
      [[file('runtime/config.ts', ''), file('README.md', '## Settings\n| `PORT` | 3000 |\n## Next\n| `REQUIRE` |')], 1],
    ],
    good: [[file('runtime/config.ts', '    PORT: whole(3000),'), file('README.md', '## Settings\n| `PORT` | 3000 |')]],
  },
  documentedScripts: {
    bad: [
      [
        [
          file('package.json', '{"scripts":{"test":"x"}}'),
          file('README.md', 'Type `npm start` or `npm run bench -- bus`.'),
        ],
        2,
      ],
    ],
    good: [
      [file('package.json', '{"scripts":{"test":"x","bench":"y"}}'), file('README.md', '`npm test`, `npm run bench`')],
    ],
  },
  links: {
    bad: [
      [[file('README.md', '[a](docs/missing.md)')], 1],
      [[file('docs/a.md', '[a](../README.md#nowhere)'), file('README.md', '# Somewhere')], 1],
      [[file('README.md', '## One\n[a](#two)')], 1],
    ],
    good: [
      [
        file('docs/a.md', '[a](../README.md#what-it-is--and-b15) [b](../bus/) [c](https://x.example) `[d](e)`'),
        file('README.md', '# What it is – and `B15`!'),
        file('bus/a.ts', ''),
      ],
      [file('README.md', '```\n[a](nowhere)\n```')],
    ],
  },
  noOnly: {
    bad: [[[file('bus/a.test.ts', "test.only('x', run)\nit('y', { only: true }, run)")], 2]],
    good: [[file('bus/a.test.ts', "test('test.only', run) // it.only\nregister({ only: /x/ })")]],
  },
  testFileNames: {
    bad: [[[file('bus/a-tests.ts', "import { test } from 'node:test'")], 1]],
    good: [
      [
        file('bus/a.test.ts', "import { test } from 'node:test'"),
        file('bus/testing/a.ts', "import { test } from 'node:test'"),
      ],
    ],
  },
  promisesTested: {
    bad: [
      [[file('bus/a.test.ts', allTitles.replace('B1 ', '').replace("'I8 holds'", "'holds I8'"))], 2],
      [[file('bus/a.ts', allTitles)], 23],
      [[file('bus/a.test.ts', `// ${allTitles.replaceAll('\n', ' ')}`)], 23],
    ],
    good: [
      [file('bus/a.test.ts', allTitles.replace('B12 ', 'F4 B12 '))],
      [file('bus/testing/a-suite.ts', allTitles.replace("'I3 holds'", "'I3'"))],
    ],
  },
  givenTime: {
    bad: [[[file('services/order/a.ts', 'const at = Date.now() + Math.random()\nsetTimeout(run, 5)\nnew Date()')], 4]],
    good: [
      [
        file('services/order/a.ts', '// Date.now()\nnew Date(clock.now())'),
        file('services/order/a.test.ts', 'Date.now()'),
        file('bus/clock.ts', 'Date.now()'),
        file('services/gateway/proxy.ts', 'setTimeout(cut, 5)'),
      ],
    ],
  },
  nothingUnfinished: {
    bad: [[[file('bus/a.ts', '// TODO: more'), file('README.md', 'FIXME')], 2]],
    good: [[file('README.md', 'mastodon, todo lists')]],
  },
  noMachine: {
    bad: [
      [
        [
          file('README.md', 'cd /tmp/shop'),
          file('bus/a.ts', "open('/root/x')"),
          file('a.sh', 'cd /work\ncd /home/me/x'),
        ],
        4,
      ],
      [[file('package-lock.json', '"resolved": "https://registry.example.org/a"')], 2],
      [[file('README.md', 'npm --registry http://registry.example.org')], 1],
    ],
    good: [
      [
        file('README.md', 'GET /workers, ./tmp/x, https://x.example/work, a/root/b, your npm registry'),
        file('a.ts', 'registry.metrics()'),
      ],
    ],
  },
}

test('every rule has examples', () => {
  assert.deepEqual(Object.keys(examples).sort(), Object.keys(rules).sort())
})

for (const [name, { bad, good }] of Object.entries(examples)) {
  test(`${name} finds what breaks it, and nothing else`, () => {
    for (const [files, times] of bad) {
      assert.equal(rules[name]!(files).length, times, files.map(({ path, text }) => `${path}: ${text}`).join('\n'))
    }
    for (const files of good) assert.deepEqual(rules[name]!(files), [])
  })
}
