/**
 * The first account: somebody has to be able to give the others their roles. It is a merchant too, so that a fresh shop
 * can be tried with this one account.
 */
import { randomBytes } from 'node:crypto'
import { linkSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { userRegistered, userRoleChanged } from '@shopsphere/contracts'
import { hashPassword, PASSWORD_LENGTH_MIN, verifyPassword } from '@shopsphere/runtime/passwords'
import type { ServiceContext } from '@shopsphere/runtime/service'
import { StartError } from '@shopsphere/runtime/start-error'
import { type Account, selfRegistered, toTell } from './account.ts'
import { addAccounts, findBySignInEmail, hasOperator, saveAccount } from './queries.ts'

const ROLES = ['customer', 'merchant', 'operator'] as const
const PASSWORD_BYTES = 18
export const PASSWORD_FILE = 'operator-password'

type Context = Pick<ServiceContext, 'bus' | 'store' | 'clock' | 'newId' | 'config' | 'log'>

/**
 * With ADMIN_PASSWORD: ADMIN_EMAIL is an operator with that password, at every start, which is also the way back in for
 * who has lost it. Without: where there is no operator yet, ADMIN_EMAIL becomes one with a random password, which is in
 * `DATA_DIR/operator-password` for its owner to read. Throws StartError where that file cannot be read or written.
 */
export async function ensureOperator(context: Context): Promise<void> {
  const { store, config, log } = context
  const { email, password } = config.operator
  if (password !== null) {
    if (await makeOperator(context, email, password))
      log.info({ email }, 'the operator has the password of ADMIN_PASSWORD')
    return
  }
  if (await store.read(hasOperator)) return
  const file = join(config.dataDir, PASSWORD_FILE)
  // The file first: a crash in between leaves a password that the next start takes, not an account without one.
  await makeOperator(context, email, readPassword(file) ?? createPassword(file))
  log.info({ email, file }, `the operator can sign in as ${email}; the password is in ${file}`)
}

/** False where everything is as it should be. */
async function makeOperator(context: Context, email: string, password: string): Promise<boolean> {
  const { bus, store } = context
  const existing = await store.read((reader) => findBySignInEmail(reader, email))
  if (!existing) {
    await register(context, email, await hashPassword(password))
    return true
  }
  const isOperator = ROLES.every((role) => existing.roles.includes(role))
  if (isOperator && (await verifyPassword(password, existing.passwordHash))) return false
  const operator: Account = {
    ...existing,
    roles: ROLES,
    passwordHash: await hashPassword(password),
    version: existing.version + 1,
  }
  await bus.transaction(async ({ tx, publish }) => {
    const { roles } = toTell(existing, operator)
    if (!(await saveAccount(tx, existing, operator))) return
    if (roles) publish(userRoleChanged, { userId: operator.userId, roles, changedBy: null })
  })
  return true
}

async function register({ bus, clock, newId }: Context, email: string, passwordHash: string): Promise<void> {
  await bus.transaction(async ({ tx, publish }) => {
    const registeredAt = clock.now()
    const userId = newId('usr')
    const details = { userId, email, name: 'Operator', country: null, registeredAt }
    // Another process of this service may have made it meanwhile.
    const added = await addAccounts(tx, [selfRegistered({ ...details, passwordHash, roles: ROLES })])
    if (added.length > 0) publish(userRegistered, { ...details, roles: [...ROLES], registeredBy: null })
  })
}

/** Written beside and then linked: whoever finds the file finds it whole, and of two processes the first one wins. */
function createPassword(file: string): string {
  const draft = `${file}.${process.pid}`
  try {
    writeFileSync(draft, `${randomBytes(PASSWORD_BYTES).toString('base64url')}\n`, { mode: 0o600, flush: true })
    try {
      linkSync(draft, file)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    }
  } catch (error) {
    throw new StartError(
      `${file} cannot be written (${(error as Error).message}): make DATA_DIR writable, or set ADMIN_PASSWORD`,
    )
  } finally {
    rmSync(draft, { force: true })
  }
  return readPassword(file)!
}

function readPassword(file: string): string | undefined {
  try {
    const password = readFileSync(file, 'utf8').trim()
    if (password.length >= PASSWORD_LENGTH_MIN) return password
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw new StartError(
      `${file} cannot be read (${(error as Error).message}): give this user the right to read it, or set ADMIN_PASSWORD`,
    )
  }
  throw new StartError(`${file} holds no password: delete it to get a new one, or set ADMIN_PASSWORD`)
}
