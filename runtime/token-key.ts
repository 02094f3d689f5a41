import { randomBytes } from 'node:crypto'
import { chmodSync, linkSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { StartError } from './start-error.ts'

const KEY_BYTES = 32

/**
 * The key that signs tokens: TOKEN_SECRET, or else a random one in `DATA_DIR/token.key` that only the owner may read.
 * Processes that start at the same time on one folder get the same key. Throws StartError for a damaged file.
 */
export function tokenSecret(config: { tokenSecret: string | null; dataDir: string }): Uint8Array {
  if (config.tokenSecret !== null) return new TextEncoder().encode(config.tokenSecret)
  const file = join(config.dataDir, 'token.key')
  const text = readIfThere(file) ?? create(file)
  const key = Buffer.from(text.trim(), 'hex')
  if (key.length !== KEY_BYTES) {
    throw new StartError(
      `${file} is damaged: delete it to get a new key (everybody then signs in again), or set TOKEN_SECRET`,
    )
  }
  chmodSync(file, 0o600)
  return key
}

/** Written beside and then linked: whoever finds the file finds it whole, and the first one wins. */
function create(file: string): string {
  const draft = `${file}.${process.pid}.${randomBytes(4).toString('hex')}`
  try {
    writeFileSync(draft, `${randomBytes(KEY_BYTES).toString('hex')}\n`, { mode: 0o600, flag: 'wx', flush: true })
    try {
      linkSync(draft, file)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    }
    return readFileSync(file, 'utf8')
  } catch (error) {
    throw new StartError(
      `${file} cannot be written (${(error as Error).message}): make DATA_DIR writable, or set TOKEN_SECRET`,
    )
  } finally {
    rmSync(draft, { force: true })
  }
}

function readIfThere(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw new StartError(
      `${file} cannot be read (${(error as Error).message}): give this user the right to read it, or set TOKEN_SECRET`,
    )
  }
}
