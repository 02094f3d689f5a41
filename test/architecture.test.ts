/** ARCHITECTURE.md says which test shows a promise; each title that it names stands in a test. */
import assert from 'node:assert/strict'
import { globSync, readFileSync } from 'node:fs'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const HEADING = '### Which test shows it'

test('every title in the table of what shows a promise is that of a test', () => {
  const text = readFileSync(`${root}ARCHITECTURE.md`, 'utf8')
  const section = text.slice(text.indexOf(HEADING) + HEADING.length).split(/^##/m)[0]!
  const rows = section.split('\n').filter((line) => line.startsWith('| ') && !line.startsWith('| ---'))
  const titles = rows.flatMap((row) =>
    [
      ...row
        .split('|')
        .slice(2)
        .join('|')
        .matchAll(/`([^`]+)`/g),
    ].map(([, title]) => title!),
  )
  assert.ok(titles.length > 30, `${titles.length} titles`)
  const tests = globSync('bus/**/*.ts', { cwd: root, exclude: ['**/node_modules/**'] }).map((file) =>
    readFileSync(`${root}${file}`, 'utf8'),
  )
  const missing = titles.filter((title) => !tests.some((code) => code.includes(title)))
  assert.deepEqual(missing, [])
})
