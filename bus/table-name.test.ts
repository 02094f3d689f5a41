import assert from 'node:assert/strict'
import { test } from 'node:test'
import { list } from './sql.ts'
import { statement, TableName, tableSql } from './table-name.ts'

const daysOf = (table: string, pence: number) =>
  tableSql`select day from ${new TableName(table)} where pence > ${pence} and ${new TableName(table)}.day in ${list(['mon'])}`

test('table names stand in the text, everything else stays a parameter', () => {
  const { strings, values } = daysOf('sales__1', 5)
  assert.deepEqual([...strings], ['select day from sales__1 where pence > ', ' and sales__1.day in ', ''])
  assert.deepEqual(values, [5, list(['mon'])])
})

test('one template with the same names is one statement, so a store prepares it once', () => {
  assert.equal(daysOf('sales__1', 5).strings, daysOf('sales__1', 6).strings)
  assert.notEqual(daysOf('sales__1', 5).strings, daysOf('sales__2', 5).strings)
  assert.equal(statement('drop table a').strings.join('?'), 'drop table a')
})

test('a name that could be anything but a table is refused', () => {
  for (const name of ['', 'Sales', '1a', 'a b', 'a;drop table b', 'a"', 'x'.repeat(64)]) {
    assert.throws(() => new TableName(name), { code: 'invalid_argument' }, name)
  }
})
