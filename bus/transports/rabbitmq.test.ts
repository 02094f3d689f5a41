import { rabbitmqPrefix, rabbitmqUrl } from '../testing/rabbitmq-place.ts'
import { transportSuite } from '../testing/transport-suite.ts'
import { rabbitmqTransport } from './rabbitmq.ts'

transportSuite('rabbitmq', {
  open: (world, { clock }) => rabbitmqTransport(rabbitmqUrl, { clock, prefix: rabbitmqPrefix(world) }),
})
