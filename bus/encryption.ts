/** Why two sides could not agree on an encrypted connection, by the codes of Node and OpenSSL, and what to do. */
import { BusError } from './errors.ts'

/** Of an authority, or of nobody. https://nodejs.org/api/tls.html#x509-certificate-error-codes */
const UNKNOWN = new Set([
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
])
const OTHERS = /^ERR_(SSL|TLS)_|^CERT_|^(INVALID_PURPOSE|INVALID_CA|PATH_LENGTH_EXCEEDED|HOSTNAME_MISMATCH)$/

type TlsError = Error & { code?: string; cert?: { subjectaltname?: string }; errors?: unknown[] }

/** Half a sentence about the server; undefined: the error is about something else. Also looks at what caused it. */
export function encryptionRefusal(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined
  const { code = '', message, cert, cause, errors = [] } = error as TlsError
  if (UNKNOWN.has(code))
    return `nobody known here vouches for its certificate (${code}): set NODE_EXTRA_CA_CERTS to the file with the certificate of its authority`
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID')
    return `its certificate is for ${cert?.subjectaltname ?? 'another host'}: write that name in the address, or give the server a certificate for this one`
  if (code === 'CERT_HAS_EXPIRED') return 'its certificate has expired: give it a new one'
  if (code === 'CERT_NOT_YET_VALID') return 'its certificate is not valid yet: set the clocks right'
  if (code === 'ERR_SSL_WRONG_VERSION_NUMBER')
    return `it does not encrypt on this port (${code}): give the port that does, or an address without encryption`
  if (OTHERS.test(code)) return `no encrypted connection could be made (${message.trim()})`
  return [cause, ...errors].map(encryptionRefusal).find((reason) => reason !== undefined)
}

/** The same as an error of the transport to `place`: waiting does not mend it. */
export function refusedEncryption(place: string, error: unknown): BusError | undefined {
  const reason = encryptionRefusal(error)
  return reason === undefined ? undefined : new BusError('transport_refused', `${place}: ${reason}`, { cause: error })
}
