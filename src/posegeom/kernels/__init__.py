"""Fast forms of operators; each module is imported only by the operator module that it belongs to."""
