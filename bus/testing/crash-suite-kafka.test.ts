import { crashSuite } from './crash-suite.ts'
import { startKafka } from './servers/kafka.ts'
import { kafkaServer } from './kafka-world.ts'
