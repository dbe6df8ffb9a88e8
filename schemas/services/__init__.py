"""What the compiler's part and the control plane of a service both know: the schema, records of maps."""
