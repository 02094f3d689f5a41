/** One process of a shop: runs the services that SERVICES names until its parent lets go of it, or kills it. */
import { StartError } from '@shopsphere/runtime/start-error'
import { startShop } from '../shop.ts'

const leave = () => process.exit()
process.once('disconnect', leave)
try {
  const shop = await startShop({ onWait: (waits) => process.send?.({ waits }) })
  process.off('disconnect', leave)
  process.once('disconnect', () => void shop.close())
  process.send?.({ url: shop.url })
} catch (error) {
  if (!(error instanceof StartError)) throw error
  process.send?.({ refused: error.message, exitCode: error.exitCode })
  process.disconnect?.()
}
