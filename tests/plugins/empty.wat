;; A module with nothing in it: eight bytes, and a valid component when it is encoded.
(module)
