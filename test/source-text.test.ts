import assert from 'node:assert/strict'
import { test } from 'node:test'
import { pieces } from './source-text.ts'

const cut = (source: string) => pieces(source).map(({ kind, text }) => [kind, text])

test('strings, comments and code are told apart', () => {
  assert.deepEqual(cut("a('b // c') // d\n/* e 'f' */ g"), [
    ['code', 'a('],
    ['string', 'b // c'],
    ['code', ') '],
    ['comment', '// d'],
    ['code', '\n'],
    ['comment', "/* e 'f' */"],
    ['code', ' g'],
  ])
})

test('an escaped quote does not end a string, and an empty string is one', () => {
  assert.deepEqual(cut(String.raw`'it\'s' + ''`), [
    ['string', String.raw`it\'s`],
    ['code', ' + '],
    ['string', ''],
  ])
})

// biome-ignore-start lint/suspicious/noTemplateCurlyInString: templates as source text
test('what stands in the braces of a template string is code, at any depth', () => {
  assert.deepEqual(cut('`a${b({ c: `d${e}` })}f`'), [
    ['template', 'a'],
    ['code', 'b({ c: '],
    ['template', 'd'],
    ['code', 'e'],
    ['template', ''],
    ['code', ' })'],
    ['template', 'f'],
  ])
})

test('a regular expression is no comment and no division', () => {
  assert.deepEqual(cut('x = /[/\'"]\\//g; y = a / b / c'), [
    ['code', 'x = '],
    ['regex', '[/\'"]\\/'],
    ['code', 'g; y = a / b / c'],
  ])
})

test('every piece says on which line it begins', () => {
  const lines = pieces("a\n'b'\n/*\n*/\n`c\n${d}`").map(({ kind, line }) => `${kind} ${line}`)
  assert.deepEqual(lines, ['code 1', 'string 2', 'code 2', 'comment 3', 'code 4', 'template 5', 'code 6', 'template 6'])
})
// biome-ignore-end lint/suspicious/noTemplateCurlyInString: templates as source text
