import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { CsvReader, type CsvRow, lineCharactersMax, recordLinesMax } from './csv.ts'

const header = 'No,Sku,Name,Count'

function read(text: string): CsvRow[] {
  const reader = new CsvReader()
  return [...reader.push(text), ...reader.end()]
}

/** Every way to cut the text in two, and one character at a time. */
function readInPieces(text: string): CsvRow[][] {
  const cuts = Array.from({ length: text.length - 1 }, (_, index) => [text.slice(0, index + 1), text.slice(index + 1)])
  return [...cuts, [...text]].map((pieces) => {
    const reader = new CsvReader()
    return [...pieces.flatMap((piece) => reader.push(piece)), ...reader.end()]
  })
}

const fieldsOf = (rows: CsvRow[]) => rows.map((row) => ('fields' in row ? row.fields : `${row.line} refused`))
const numbers = (rows: CsvRow[]) => rows.map((row) => ('fields' in row ? row.fields[0] : `line ${row.line} refused`))

describe('line ends', () => {
  for (const [name, end] of Object.entries({ 'CR LF': '\r\n', LF: '\n', CR: '\r' })) {
    test(`${name}: rows and line numbers are right, with and without a last line end`, () => {
      const text = [header, '1,a,b,2', '', '2,c,d,3'].join(end)
      const expected = [
        { line: 1, fields: ['No', 'Sku', 'Name', 'Count'] },
        { line: 2, fields: ['1', 'a', 'b', '2'] },
        { line: 4, fields: ['2', 'c', 'd', '3'] },
      ]
      assert.deepEqual(read(text), expected)
      assert.deepEqual(read(text + end), expected)
    })
  }

  test('may be mixed in one file', () => {
    assert.deepEqual(numbers(read(`${header}\r\n1,a,b,2\n2,a,b,2\r3,a,b,2\r\n`)), ['No', '1', '2', '3'])
  })

  test('CR CR LF is a line, an empty line, and no more', () => {
    assert.deepEqual(read(`${header}\r\r\n1,a,b,2`).at(-1), { line: 3, fields: ['1', 'a', 'b', '2'] })
  })
})

test('wherever the text is cut, the rows are the same', () => {
  const text = `${header}\r\n1,a,"x, ""y""",2\r\n2,"stray,b,3\r\n3,a,"two\r\nlines",2\r\n\r\n4,,,\r\n5,a,"end`
  const whole = read(text)
  assert.deepEqual(fieldsOf(whole), [
    ['No', 'Sku', 'Name', 'Count'],
    ['1', 'a', 'x, "y"', '2'],
    '3 refused',
    ['3', 'a', 'two\nlines', '2'],
    ['4', '', '', ''],
    '8 refused',
  ])
  for (const pieces of readInPieces(text)) assert.deepEqual(pieces, whole)
})

describe('quotes', () => {
  const row = (text: string) => fieldsOf(read(`${header}\n${text}`))[1]

  test('commas and doubled quotes inside quotes belong to the field', () => {
    assert.deepEqual(row('1,"a,b","say ""hi""",""'), ['1', 'a,b', 'say "hi"', ''])
    assert.deepEqual(row('1,a,"""quoted""",2'), ['1', 'a', '"quoted"', '2'])
  })

  test('a quote inside a field that does not begin with one is a plain character', () => {
    assert.deepEqual(row('1,a,RECORD FRAME 7" SIZE,2'), ['1', 'a', 'RECORD FRAME 7" SIZE', '2'])
  })

  test('a row may span lines', () => {
    assert.deepEqual(read(`${header}\n1,a,"x\n\ny, z",2\n2,a,b,3`).slice(1), [
      { line: 2, fields: ['1', 'a', 'x\n\ny, z', '2'] },
      { line: 5, fields: ['2', 'a', 'b', '3'] },
    ])
  })

  test('a row may span lines in its first and in its last field', () => {
    assert.deepEqual(fieldsOf(read(`${header}\n"1\nx",a,b,2\n2,a,b,"3\n4"\n5,a,b,6`)).slice(1), [
      ['1\nx', 'a', 'b', '2'],
      ['2', 'a', 'b', '3\n4'],
      ['5', 'a', 'b', '6'],
    ])
  })
})

describe('a broken line is refused by number and the rest goes on', () => {
  const good = (from: number, to: number) =>
    Array.from({ length: to - from }, (_, index) => `${from + index},a,b,2\n`).join('')

  test('too few and too many fields', () => {
    assert.deepEqual(numbers(read(`${header}\n1,a,b\n2,a,b,2\n3,a,b,2,9\n4,a,b,2`)).slice(1), [
      'line 2 refused',
      '2',
      'line 4 refused',
      '4',
    ])
  })

  for (const [name, broken] of Object.entries({
    'a stray quote before a field': '9,a,"b,2',
    'a stray quote before the first field': '"9,a,b,2',
    'a stray quote before the last field': '9,a,b,"2',
    'a stray quote and a line too short': '9,"a',
    'text behind a closing quote': '9,a,"b"c,2',
    'a quote that should have been doubled': '9,a,"7" FRAME",2',
    'a quoted field and then a stray quote': '9,"a,a","b,2',
  })) {
    test(`${name}: with no other quote in the file`, () => {
      assert.deepEqual(numbers(read(`${header}\n1,a,b,2\n${broken}\n${good(2, 40)}`)).slice(1, 5), [
        '1',
        'line 3 refused',
        '2',
        '3',
      ])
    })

    test(`${name}: with a good quote soon after it`, () => {
      const rows = read(`${header}\n1,a,b,2\n${broken}\n2,a,"b, ""x""",2\n3,a,"c",2\n`)
      assert.deepEqual(numbers(rows).slice(1), ['1', 'line 3 refused', '2', '3'])
    })

    test(`${name}: as the last line of the file`, () => {
      assert.deepEqual(numbers(read(`${header}\n1,a,b,2\n${broken}`)).slice(1), ['1', 'line 3 refused'])
    })

    test(`${name}: twice in a row`, () => {
      assert.deepEqual(numbers(read(`${header}\n${broken}\n${broken}\n1,a,b,2`)).slice(1), [
        'line 2 refused',
        'line 3 refused',
        '1',
      ])
    })
  }

  test('a quote that nothing closes for too many lines gives every one of them back', () => {
    const short = Array.from({ length: recordLinesMax + 5 }, () => 'x\n').join('')
    const rows = read(`${header}\n1,"a\n${short}2,a,b,2`)
    assert.equal(rows.filter((row) => 'fault' in row).length, recordLinesMax + 6)
    assert.deepEqual(rows.at(-1), { line: recordLinesMax + 8, fields: ['2', 'a', 'b', '2'] })
  })

  test('a line without an end is refused without being kept', () => {
    const reader = new CsvReader()
    const rows = reader.push(`${header}\n1,a,`)
    for (let piece = 0; piece < 100; piece += 1) rows.push(...reader.push('b'.repeat(lineCharactersMax / 10)))
    rows.push(...reader.push(',2\n2,a,b,2\n'), ...reader.end())
    assert.deepEqual(numbers(rows).slice(1), ['line 2 refused', '2'])
  })
})
