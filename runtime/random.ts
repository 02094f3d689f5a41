import { getRandomValues } from 'node:crypto'
import { type Random, seededRandom } from '@shopsphere/bus'

/**
 * With a seed: a sequence that the seed and the name alone decide, so that one service's draws do not shift another's.
 * Without: chance that cannot be guessed, because ids of guest orders are made of it.
 */
export function createRandom(seed: number | null, name: string): Random {
  return seed === null ? unguessable() : seededRandom(seed ^ hash(name))
}

/** Draws from the operating system 1,024 numbers at a time; one by one would cost a system call each. */
function unguessable(): Random {
  const numbers = new Uint32Array(1024)
  let next = numbers.length
  return () => {
    if (next === numbers.length) {
      getRandomValues(numbers)
      next = 0
    }
    return numbers[next++]! / 2 ** 32
  }
}

/** FNV-1a, 32 bits. */
function hash(text: string): number {
  let result = 0x811c9dc5
  for (const character of text) result = Math.imul(result ^ character.codePointAt(0)!, 0x01000193)
  return result >>> 0
}
