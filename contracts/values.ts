/** The values that several events share. Plain checks only: they run at every publish and at every receipt. */
import { z } from 'zod'

/** What a payload may hold at most; the HTTP routes refuse with the same numbers, so that nothing fails later. */
export const contractLimits = {
  idCharactersMax: 64,
  skuCharactersMax: 64,
  nameCharactersMax: 256,
  textCharactersMax: 4_000,
  emailCharactersMax: 254,
  countryCharactersMax: 64,
  /** Lines of one order, cart or shipment. */
  linesMax: 2_000,
  /** Units of one line. */
  quantityMax: 1_000_000,
  /** Units of all lines together. */
  unitsMax: 1_000_000_000,
  unitPenceMax: 1_000_000_000,
  /** Every total of money: ten billion pounds. */
  totalPenceMax: 1_000_000_000_000,
  attemptMax: 1_000,
} as const

const limits = contractLimits

/** Characters from 1 to `charactersMax`. */
export const text = (charactersMax: number) =>
  answeringAtOnce(
    z.string().min(1).max(charactersMax),
    (value) => typeof value === 'string' && value.length >= 1 && value.length <= charactersMax,
  )

/** A whole number from `min` to `max`. */
export const whole = (min: number, max: number) =>
  answeringAtOnce(
    z.int().min(min).max(max),
    (value) => Number.isSafeInteger(value) && (value as number) >= min && (value as number) <= max,
  )

/**
 * The same schema, which takes a value that `fits` without running zod's list of checks; one that does not fit runs it, and
 * is refused in zod's words. Measured on an order of five lines: 0.9 µs instead of 3.7, some sixty times an order.
 */
function answeringAtOnce<Schema extends z.ZodType>(schema: Schema, fits: (value: unknown) => boolean): Schema {
  const { run } = schema._zod
  schema._zod.run = (payload, context) => (fits(payload.value) ? payload : run(payload, context))
  return schema
}

/** A prefix and a UUIDv7: `ord_0193…`. */
export const id = text(limits.idCharactersMax)
/** The merchant's own code of a product. */
export const sku = text(limits.skuCharactersMax)
export const name = text(limits.nameCharactersMax)
/** Its form is checked once, where it enters the shop. */
export const email = text(limits.emailCharactersMax)
/** ISO 3166-1 alpha-2 where it is known, otherwise the name that was given. */
export const country = text(limits.countryCharactersMax)
/** A code for programs: `card_declined`. */
export const code = text(64)
/** A sentence for people. */
export const sentence = text(500)
/** Milliseconds since the Unix epoch; the largest is the last moment that a Date can hold. */
export const timeMs = whole(0, 8_640_000_000_000_000)
export const currency = z.literal('GBP')
export const unitPence = whole(0, limits.unitPenceMax)
export const totalPence = whole(0, limits.totalPenceMax)
export const lineNo = whole(1, limits.linesMax)
export const quantity = whole(1, limits.quantityMax)
/** A sum of quantities, which may be none. */
export const units = whole(0, limits.unitsMax)
/** Counts from 1. */
export const attempt = whole(1, limits.attemptMax)

/** Whose order it is, spread into a payload; both null for a guest who left no e-mail. */
export const buyer = { customerId: id.nullable(), email: email.nullable() }

export const roles = z
  .array(z.enum(['customer', 'merchant', 'operator']))
  .min(1)
  .max(3)
/** `low`: still to be had, but fewer than the shop's threshold. */
export const availability = z.enum(['in_stock', 'low', 'out'])
/** Why an order is or was called off. */
export const cancelReason = z.enum(['out_of_stock', 'payment_failed', 'expired', 'customer', 'inventory_lost'])

export const address = z.object({
  name,
  line1: text(256),
  line2: text(256).nullable(),
  city: text(128),
  region: text(128).nullable(),
  postcode: text(32),
  country,
})

/** One line of an order at the price that was agreed; `lineNo` is unique in the order, a sku need not be. */
export const orderLine = z.object({ lineNo, sku, name, quantity, unitPence })
export const orderLines = z.array(orderLine).min(1).max(limits.linesMax)

/** What is in a cart: one line for each sku. */
export const cartLines = z.array(z.object({ sku, name, quantity, unitPence })).max(limits.linesMax)

/** A part of an order's lines, with what a unit cost: enough to capture, to refund and to move stock. */
export const partLine = z.object({ lineNo, sku, quantity, unitPence })
export const partLines = z.array(partLine).min(1).max(limits.linesMax)

/** Where stock does not suffice: for each sku, what all lines together want and what is left. */
export const shortages = z.array(z.object({ sku, wanted: units, available: units })).max(limits.linesMax)

export type Address = z.infer<typeof address>
export type OrderLine = z.infer<typeof orderLine>
export type CartLine = z.infer<typeof cartLines>[number]
export type PartLine = z.infer<typeof partLine>
export type Shortage = z.infer<typeof shortages>[number]
export type Role = z.infer<typeof roles>[number]
export type Availability = z.infer<typeof availability>
export type CancelReason = z.infer<typeof cancelReason>
