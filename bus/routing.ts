/**
 * Which messages a binding takes, and which shard a key belongs to. Every transport uses this file (or proves, in
 * `transportSuite`, that its broker decides alike), so that the four exchange types mean the same everywhere.
 */
import { BusError } from './errors.ts'
import type { WireMessage } from './message.ts'
import type { Binding } from './transport.ts'

/** Shards of a subscription, unless a transport says otherwise: so many processes at most share its work. */
export const SHARDS_DEFAULT = 16

/** AMQP 0-9-1 carries a routing key in a short string. */
const PATTERN_BYTES_MAX = 255
/** Types whose answer a matcher remembers; types come from code, so this is only reached by a broken publisher. */
const TYPES_REMEMBERED_MAX = 10_000

type Routed = Pick<WireMessage, 'type' | 'headers'>

/** Does the binding take the message? Throws `invalid_argument` for a malformed binding. For many messages, use `matcher`. */
export function matches(binding: Binding, message: Routed): boolean {
  return matcher([binding])(message)
}

/**
 * One function for all bindings of a subscription: true where at least one takes the message. What is decided by the
 * type alone is decided once per type. Throws `invalid_argument` for a malformed binding.
 */
export function matcher(bindings: readonly Binding[]): (message: Routed) => boolean {
  validateBindings(bindings)
  if (bindings.some((binding) => binding.kind === 'fanout')) return () => true
  const byType = bindings.map(typeMatcher).filter((match) => match !== undefined)
  const byHeaders = bindings.filter((binding) => binding.kind === 'headers')
  const remembered = new Map<string, boolean>()
  return ({ type, headers }) => {
    let taken = remembered.get(type)
    if (taken === undefined) {
      taken = byType.some((match) => match(type))
      if (remembered.size >= TYPES_REMEMBERED_MAX) remembered.clear()
      remembered.set(type, taken)
    }
    return taken || byHeaders.some((binding) => headersMatch(binding, headers))
  }
}

/** Throws `invalid_argument`, naming what is wrong with which binding. */
export function validateBindings(bindings: readonly Binding[]): void {
  if (bindings.length === 0)
    throw new BusError('invalid_argument', 'bindings: give at least one, or nothing can arrive')
  for (const binding of bindings) validateBinding(binding)
}

function validateBinding(binding: Binding): void {
  switch (binding.kind) {
    case 'fanout':
      return
    case 'topic':
      validatePattern(binding.pattern)
      return
    case 'direct':
      if (/[*#]/.test(binding.type)) {
        throw new BusError(
          'invalid_argument',
          `direct binding '${binding.type}': wildcards need { kind: 'topic', pattern }`,
        )
      }
      validatePattern(binding.type)
      return
    case 'headers':
      validateHeaders(binding)
      return
    default:
      throw new BusError(
        'invalid_argument',
        `binding ${JSON.stringify(binding)}: kind must be topic, direct, fanout or headers`,
      )
  }
}

/** Throws `invalid_argument` unless the pattern is words separated by dots, each a `*`, a `#` or free of both. */
export function validatePattern(pattern: string): void {
  const refuse = (why: string) => new BusError('invalid_argument', `pattern ${JSON.stringify(pattern)}: ${why}`)
  if (typeof pattern !== 'string' || pattern === '')
    throw refuse("write words separated by dots, as 'order.*', or '#' for all")
  if (Buffer.byteLength(pattern) > PATTERN_BYTES_MAX) throw refuse(`longer than ${PATTERN_BYTES_MAX} bytes`)
  for (const word of pattern.split('.')) {
    if (word === '') throw refuse('has an empty word; take out the extra dot')
    if (/\s/.test(word)) throw refuse('has white space')
    if (word.length > 1 && /[*#]/.test(word))
      throw refuse(`'*' and '#' stand for whole words, so '${word}' matches nothing`)
  }
}

function validateHeaders(binding: Extract<Binding, { kind: 'headers' }>): void {
  if (binding.match !== 'all' && binding.match !== 'any') {
    throw new BusError(
      'invalid_argument',
      `headers binding: match must be 'all' or 'any', not ${JSON.stringify(binding.match)}`,
    )
  }
  const values = Object.values(binding.headers)
  if (values.length === 0) {
    throw new BusError(
      'invalid_argument',
      "headers binding: name at least one header; for everything use { kind: 'fanout' }",
    )
  }
  if (values.some((value) => typeof value !== 'string')) {
    throw new BusError('invalid_argument', 'headers binding: every value must be a string')
  }
}

function headersMatch(binding: Extract<Binding, { kind: 'headers' }>, headers: Routed['headers']): boolean {
  const wanted = Object.entries(binding.headers)
  const same = ([name, value]: [string, string]) => Object.hasOwn(headers, name) && headers[name] === value
  return binding.match === 'all' ? wanted.every(same) : wanted.some(same)
}

function typeMatcher(binding: Binding): ((type: string) => boolean) | undefined {
  if (binding.kind === 'direct') return (type) => type === binding.type
  if (binding.kind !== 'topic') return undefined
  const pattern = binding.pattern.split('.')
  return (type) => wordsMatch(pattern, type.split('.'))
}

/** A glob over words. Only the last `#` is ever widened, which is enough, and keeps the time below |pattern| × |words|. */
function wordsMatch(pattern: readonly string[], words: readonly string[]): boolean {
  let at = 0
  let afterHash = -1
  let widenedTo = 0
  for (let index = 0; index < words.length; ) {
    if (pattern[at] === '#') {
      afterHash = ++at
      widenedTo = index
    } else if (at < pattern.length && (pattern[at] === '*' || pattern[at] === words[index])) {
      at++
      index++
    } else if (afterHash >= 0) {
      at = afterHash
      index = ++widenedTo
    } else {
      return false
    }
  }
  while (pattern[at] === '#') at++
  return at === pattern.length
}

/**
 * The shard, from 0 to `shards` − 1, that a key belongs to: FNV-1a over its UTF-16 units, folded, because the low bits
 * alone would ignore the high bits of every character. The id stands in where a message has no key: `shardOf(key ?? id, 16)`.
 * Source: http://www.isthe.com/chongo/tech/comp/fnv/
 */
export function shardOf(key: string, shards: number = SHARDS_DEFAULT): number {
  let hash = 0x811c9dc5
  for (let index = 0; index < key.length; index++) {
    hash = Math.imul(hash ^ key.charCodeAt(index), 0x01000193)
  }
  return ((hash ^ (hash >>> 16)) >>> 0) % shards
}
