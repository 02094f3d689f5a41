import { type Argon2Parameters, argon2, randomBytes, timingSafeEqual } from 'node:crypto'
import { promisify } from 'node:util'

/**
 * Passwords as argon2id in the PHC string format: `$argon2id$v=19$m=19456,t=2,p=1$salt$hash`. The parameters are OWASP's
 * (https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html), kept with each hash, so that they
 * can be raised later. The work is done off the main thread.
 */

const derive = promisify(argon2)

type Cost = { readonly memory: number; readonly passes: number; readonly parallelism: number }
const cost: Cost = { memory: 19_456, passes: 2, parallelism: 1 }
const SALT_BYTES = 16
const HASH_BYTES = 32
const FORMAT = /^\$argon2id\$v=19\$m=(\d+),t=(\d+),p=(\d+)\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)$/

export const PASSWORD_LENGTH_MIN = 10
/** Longer ones are refused by the routes: hashing must not be a way to keep the server busy. */
export const PASSWORD_LENGTH_MAX = 256

export async function hashPassword(password: string): Promise<string> {
  const salt = randomBytes(SALT_BYTES)
  const { memory, passes, parallelism } = cost
  const hash = await derive('argon2id', parameters(password, salt, cost, HASH_BYTES))
  return `$argon2id$v=19$m=${memory},t=${passes},p=${parallelism}$${text(salt)}$${text(hash)}`
}

/**
 * True where `password` is the one that `stored` was made of. For an account that does not exist pass null: the answer
 * is false and takes as long, so that nobody learns from the time who has an account.
 */
export async function verifyPassword(password: string, stored: string | null): Promise<boolean> {
  const [, memory, passes, parallelism, salt, hash] = FORMAT.exec(stored ?? nobody) ?? []
  if (hash === undefined) throw new Error('a stored password hash is damaged: the account needs a new password')
  const expected = Buffer.from(hash, 'base64')
  const asStored = { memory: Number(memory), passes: Number(passes), parallelism: Number(parallelism) }
  const actual = await derive('argon2id', parameters(password, Buffer.from(salt!, 'base64'), asStored, expected.length))
  return timingSafeEqual(actual, expected) && stored !== null
}

/** True where the hash was made with other parameters than today's: hash again when the password is at hand. */
export function needsRehash(stored: string): boolean {
  return !stored.startsWith(`$argon2id$v=19$m=${cost.memory},t=${cost.passes},p=${cost.parallelism}$`)
}

/** The same password typed on another keyboard may be other code points: NFKC makes them one. */
function parameters(
  password: string,
  nonce: Buffer,
  { memory, passes, parallelism }: Cost,
  tagLength: number,
): Argon2Parameters {
  return { message: password.normalize('NFKC'), nonce, memory, passes, parallelism, tagLength }
}

const text = (bytes: Buffer) => bytes.toString('base64').replace(/=+$/, '')

const nobody = `$argon2id$v=19$m=${cost.memory},t=${cost.passes},p=${cost.parallelism}$${text(Buffer.alloc(SALT_BYTES))}$${text(Buffer.alloc(HASH_BYTES))}`
