"""The AMQP worker, as the service account."""
