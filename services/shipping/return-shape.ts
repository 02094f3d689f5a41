/** How a return looks over HTTP. */
import { z } from '@hono/zod-openapi'
import { dispositions, type ReturnCase, returnStates } from './returns.ts'

const timeMs = z.int().openapi({ description: 'Milliseconds since the epoch' })

export const partLine = z
  .object({ lineNo: z.int(), sku: z.string(), quantity: z.int(), unitPence: z.int() })
  .openapi('PartLine')

export const returnShape = z
  .object({
    returnId: z.string(),
    orderId: z.string(),
    customerId: z.string().nullable(),
    state: z.enum(returnStates),
    outcome: z.enum(['refunded', 'rejected', 'not_received']).nullable(),
    reason: z.string().nullable(),
    currency: z.literal('GBP'),
    refundPence: z.int().openapi({ description: 'What these units cost, in pence' }),
    requestedAt: timeMs,
    changedAt: timeMs,
    lines: z.array(
      partLine
        .extend({ disposition: z.enum(dispositions).nullable(), reason: z.string().nullable() })
        .openapi('ReturnLine'),
    ),
  })
  .openapi('Return')

export function showReturn(goods: ReturnCase): z.infer<typeof returnShape> {
  const { requestedBy: _, lines, ...shown } = goods
  return { ...shown, currency: 'GBP', lines: [...lines] }
}
