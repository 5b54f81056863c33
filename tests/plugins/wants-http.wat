;; A component with a good handler that wants to send HTTP requests, which nothing allows by
;; default. Its handler, if it ran, would end every message's way.
(component
  (import "wasi:http/outgoing-handler@0.2.0" (instance $http
    (export "handle" (func))))
  (core module $m
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024)
    ;; The result is read at 0, where zeros stand: ok, with an empty list.
    (func (export "handle") (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) i32.const 0))
  (core instance $i (instantiate $m))
  (type $header (tuple string (list u8)))
  ;; An interface that is exported has to name its types: this gives them their names.
  (component $names
    (type $header (tuple string (list u8)))
    (type $message-type (record
      (field "payload" (list u8)) (field "headers" (list $header))
      (field "route" (option string))))
    (import "message" (type $message (eq $message-type)))
    (type $failure-type (variant
      (case "reject" string) (case "retry" string) (case "retry-after" (tuple u64 string))))
    (import "failure" (type $failure (eq $failure-type)))
    (import "handle" (func $handle (param "channel" string) (param "message" $message)
      (result (result (list $message) (error $failure)))))
    (export $exported-message "message" (type $message))
    (export $exported-failure "failure" (type $failure))
    (export "handle-message" (func $handle)
      (func (param "channel" string) (param "message" $exported-message)
        (result (result (list $exported-message) (error $exported-failure))))))
  (type $message (record
    (field "payload" (list u8)) (field "headers" (list $header))
    (field "route" (option string))))
  (type $failure (variant
    (case "reject" string) (case "retry" string) (case "retry-after" (tuple u64 string))))
  (func $handle (param "channel" string) (param "message" $message)
    (result (result (list $message) (error $failure)))
    (canon lift (core func $i "handle") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
  (instance $handler (instantiate $names
    (with "message" (type $message))
    (with "failure" (type $failure))
    (with "handle" (func $handle))))
  (export "handlerd:plugin/handler@0.1.0" (instance $handler)))
