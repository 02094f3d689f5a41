/** Owned by product: what is for sale, and at which price. */
import { event } from '@shopsphere/bus'
import { z } from 'zod'
import { code, contractLimits, currency, id, name, sku, text, unitPence } from './values.ts'

const description = text(contractLimits.textCharactersMax).nullable()
const category = code.nullable()

export const productCreated = event('product.created', {
  version: 1,
  owner: 'product',
  summary: 'A product is in the catalogue from now on.',
  schema: z.object({
    sku,
    name,
    description,
    category,
    pricePence: unitPence,
    currency,
    createdBy: id.nullable(),
  }),
  key: (product) => product.sku,
  example: {
    sku: '85123A',
    name: 'White hanging heart T-light holder',
    description: 'Painted metal, 12 cm.',
    category: 'lighting',
    pricePence: 255,
    currency: 'GBP',
    createdBy: 'usr_01939c1e-7000-7000-8000-000000000009',
  },
})

export const productUpdated = event('product.updated', {
  version: 1,
  owner: 'product',
  summary: 'A product is described otherwise now; all of the description is told, changed or not. Not for prices.',
  schema: z.object({ sku, name, description, category }),
  key: (product) => product.sku,
  example: { sku: '85123A', name: 'Cream hanging heart T-light holder', description: null, category: 'lighting' },
})

export const productPriceUpdated = event('product.price_updated', {
  version: 1,
  owner: 'product',
  summary: 'A product costs this much from now on; orders that were placed keep their prices.',
  schema: z.object({ sku, pricePence: unitPence, previousPricePence: unitPence, currency }),
  key: (product) => product.sku,
  example: { sku: '85123A', pricePence: 295, previousPricePence: 255, currency: 'GBP' },
})

export const productDiscontinued = event('product.discontinued', {
  version: 1,
  owner: 'product',
  summary: 'A product is not for sale any more.',
  schema: z.object({ sku }),
  key: (product) => product.sku,
  example: { sku: '85123A' },
})

export const productEvents = [productCreated, productUpdated, productPriceUpdated, productDiscontinued]
