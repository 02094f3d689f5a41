import assert from 'node:assert/strict'
import { test } from 'node:test'
import { event, type Schema } from './event.ts'

const schema: Schema<unknown> = {
  '~standard': { version: 1, vendor: 'test', validate: (value) => ({ value }) },
}
const right = { version: 1, schema, key: () => null }
const refused = (type: string, changed: object) => {
  try {
    event(type, { ...right, ...changed })
  } catch (error) {
    return (error as Error).message
  }
  return assert.fail(`${type} ${JSON.stringify(changed)} was taken`)
}

test('a bad definition of an event is refused where it is written, with what is expected', () => {
  for (const type of ['order', 'Order.placed', 'order.', 'order placed', '9.a'])
    assert.match(refused(type, {}), /write lower-case words separated by dots/, type)
  for (const version of [0, 1.5, Number.NaN]) assert.match(refused('a.b', { version }), /whole number from 1/)
  assert.match(refused('a.b', { version: 3, upcast: { 1: () => ({}) } }), /give an upcaster from version 2/)
  for (const schema of [undefined, null, {}, () => true])
    assert.match(refused('a.b', { schema }), /'a\.b': schema must be a Standard Schema/)
  for (const key of [undefined, null, 'orderId'])
    assert.match(refused('a.b', { key }), /'a\.b': key must be a function/)
})

test('an owner is the first word of the type unless another is named', () => {
  assert.equal(event('order.placed', right).owner, 'order')
  assert.equal(event('order.placed', { ...right, owner: 'till' }).owner, 'till')
})
