/** The second process of the saga benchmark: runs the services that SERVICES names until its parent lets go of it. */
import { startShop } from '../shop.ts'

const shop = await startShop({ headless: true })
process.once('disconnect', () => void shop.close())
process.send?.('ready')
