import { execFileSync } from 'node:child_process'
import { chmodSync, chownSync } from 'node:fs'
import { join } from 'node:path'
import { type Account, findProgram } from './server.ts'

/** Files in PEM. */
export type Certificate = { readonly certificate: string; readonly key: string }

export type Authority = {
  /** The file with its own certificate, for NODE_EXTRA_CA_CERTS. */
  readonly file: string
  /** A server's certificate for one host name; `account` may read its key. */
  issue(host: string, account?: Account): Certificate
}

/** A certificate authority that nobody knows, with its files in `folder`. Throws ServerMissing where openssl is not there. */
export function createAuthority(folder: string): Authority {
  const openssl = findProgram('openssl', 'openssl')
  const make = (name: string, ...more: string[]): Certificate => {
    const [certificate, key] = [join(folder, `${name}.pem`), join(folder, `${name}.key`)]
    const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-noenc', '-days', '2']
    const files = ['-keyout', key, '-out', certificate]
    execFileSync(openssl, ['req', '-x509', ...kind, '-subj', `/CN=${name}`, ...files, ...more], { stdio: 'pipe' })
    return { certificate, key }
  }
  chmodSync(folder, 0o711)
  const own = make('authority')
  return {
    file: own.certificate,
    issue(host, account) {
      const names = ['-addext', `subjectAltName=DNS:${host}`, '-addext', 'basicConstraints=CA:FALSE']
      const issued = make(host, '-CA', own.certificate, '-CAkey', own.key, ...names)
      chmodSync(issued.certificate, 0o644)
      if (account) chownSync(issued.key, account.uid, account.gid)
      return issued
    },
  }
}
