import { kafkaIn, kafkaServer } from '../testing/kafka-world.ts'
import { transportSuite } from '../testing/transport-suite.ts'

const { url, runner } = await kafkaServer()

transportSuite('kafka', { open: (world) => kafkaIn(world, url) }, runner)
