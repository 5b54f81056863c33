;; A component made for a version of the interface that handlerd doesn't know.
(component
  (core module $m
    (func (export "handle") (param i32) (result i32) local.get 0))
  (core instance $i (instantiate $m))
  (func $handle (param "n" u32) (result u32) (canon lift (core func $i "handle")))
  (instance $handler (export "handle-message" (func $handle)))
  (export "handlerd:plugin/handler@0.3.0" (instance $handler)))
