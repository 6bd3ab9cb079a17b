"""The stores and sandboxes that come with boxflow: one module each, none of which imports another."""
