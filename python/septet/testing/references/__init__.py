"""The ops in plain torch: oracle of the tests, and the ``eager`` backend."""
