/**
 * What people type, as every service's request bodies take it: with the contracts' limits, so that nothing fails when it
 * is published, and without the control characters that could forge a header or a line.
 */
import { z } from '@hono/zod-openapi'
import { contractLimits } from '@shopsphere/contracts'

const limits = contractLimits
// Checked by functions and not as patterns: OpenAPI's patterns have no place for the flag that \p needs.
const hasNoControlCharacters = (text: string) => !/\p{Cc}/u.test(text)
const hasOnlyLineEndsAndTabs = (text: string) => !/[^\P{Cc}\n\t]/u.test(text)

/** One line of text; spaces at its ends are taken off. */
export const lineOf = (charactersMax: number) =>
  z.string().trim().min(1).max(charactersMax).refine(hasNoControlCharacters, 'expected no control characters')

/** Text of several lines; spaces at its ends are taken off. */
export const paragraphOf = (charactersMax: number) =>
  z
    .string()
    .trim()
    .min(1)
    .max(charactersMax)
    .refine(hasOnlyLineEndsAndTabs, 'expected no control characters but line ends and tabs')

export const emailAddress = z.email('expected an e-mail address').max(limits.emailCharactersMax)

export const displayName = lineOf(limits.nameCharactersMax)

/** ISO 3166-1 alpha-2, or the name of a country. */
export const countryName = lineOf(limits.countryCharactersMax)

/** Where parcels go. What is left out is null, as in the payloads of events. */
export const postalAddress = z.strictObject({
  name: displayName,
  line1: lineOf(256),
  line2: lineOf(256).nullable().default(null),
  city: lineOf(128),
  region: lineOf(128).nullable().default(null),
  postcode: lineOf(32),
  country: countryName,
})

/** The merchant's own code of a product. It stands in addresses, so a dot segment cannot be one. */
export const productCode = lineOf(limits.skuCharactersMax).refine(
  (sku) => sku !== '.' && sku !== '..',
  'expected more than dots',
)

/** The price of one unit in whole pence. */
export const unitPrice = z.int().min(0).max(limits.unitPenceMax)

/** An id in an address: whatever is not one finds nothing. */
export const anyId = z.string().min(1).max(limits.idCharactersMax)

/** Why one line of an import was refused, where the others go on. */
export function reasonOf(error: z.ZodError): string {
  const { path, message } = error.issues[0]!
  return path.length > 0 ? `${path.join('.')}: ${message}` : message
}
