;; The driver: calls a plugin's handle-message for one message after another, so that entering the
;; guest is paid for once a batch. `driver.rs` adds it to each component and says what it is given.
;;
;; A batch is the messages' bytes, one message after the other; numbers are little-endian u32:
;;   channel length, payload length, header count, channel, payload,
;;   and for each header: name length, value length, name, value.
(module
  ;; The plugin's memory, and the functions that the Canonical ABI would call for the host.
  (import "plugin" "memory" (memory $plugin 0))
  (import "plugin" "realloc" (func $realloc (param i32 i32 i32 i32) (result i32)))
  (import "plugin" "handle" (func $handle (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "plugin" "post-return" (func $post_return (param i32)))
  ;; Takes what came of a message; whether the next one is to be handled.
  (import "host" "emit" (func $emit (param i32 i32 i64 i32 i32) (result i32)))
  ;; The batch's memory, which the plugin doesn't see.
  (import "batch" "memory" (memory $batch 1))

  ;; So many bytes of the batch, as a list that the plugin owns. An empty one is allocated too, as
  ;; the host does it: some languages free whatever they are given.
  (func $give (param $from i32) (param $len i32) (result i32)
    (local $to i32)
    (local.set $to (call $realloc (i32.const 0) (i32.const 0) (i32.const 1) (local.get $len)))
    (memory.copy $plugin $batch (local.get $to) (local.get $from) (local.get $len))
    (local.get $to))

  (func (export "run") (param $at i32) (param $len i32)
    (local $end i32)
    (local $channel i32) (local $channel_len i32)
    (local $payload i32) (local $payload_len i32)
    (local $headers i32) (local $header_count i32) (local $header i32) (local $left i32)
    (local $name_len i32) (local $value_len i32)
    (local $result i32) (local $kind i32) (local $case i32) (local $more i32)
    (local.set $end (i32.add (local.get $at) (local.get $len)))
    (loop $message
      (if (i32.ge_u (local.get $at) (local.get $end)) (then (return)))
      (local.set $channel_len (i32.load $batch align=1 (local.get $at)))
      (local.set $payload_len (i32.load $batch offset=4 align=1 (local.get $at)))
      (local.set $header_count (i32.load $batch offset=8 align=1 (local.get $at)))
      (local.set $at (i32.add (local.get $at) (i32.const 12)))
      (local.set $channel (call $give (local.get $at) (local.get $channel_len)))
      (local.set $at (i32.add (local.get $at) (local.get $channel_len)))
      (local.set $payload (call $give (local.get $at) (local.get $payload_len)))
      (local.set $at (i32.add (local.get $at) (local.get $payload_len)))
      (local.set $headers
        (call $realloc (i32.const 0) (i32.const 0) (i32.const 4)
          (i32.mul (local.get $header_count) (i32.const 16))))
      (if (local.get $header_count)
        (then
          (local.set $header (local.get $headers))
          (local.set $left (local.get $header_count))
          (loop $next
            (local.set $name_len (i32.load $batch align=1 (local.get $at)))
            (local.set $value_len (i32.load $batch offset=4 align=1 (local.get $at)))
            (local.set $at (i32.add (local.get $at) (i32.const 8)))
            (i32.store $plugin (local.get $header)
              (call $give (local.get $at) (local.get $name_len)))
            (i32.store $plugin offset=4 (local.get $header) (local.get $name_len))
            (local.set $at (i32.add (local.get $at) (local.get $name_len)))
            (i32.store $plugin offset=8 (local.get $header)
              (call $give (local.get $at) (local.get $value_len)))
            (i32.store $plugin offset=12 (local.get $header) (local.get $value_len))
            (local.set $at (i32.add (local.get $at) (local.get $value_len)))
            (local.set $header (i32.add (local.get $header) (i32.const 16)))
            (br_if $next (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))))
      (local.set $result
        (call $handle
          (local.get $channel) (local.get $channel_len)
          (local.get $payload) (local.get $payload_len)
          (local.get $headers) (local.get $header_count)
          (i32.const 0) (i32.const 0) (i32.const 0))) ;; no route
      ;; result<list<message>, failure>, as it lies in memory, to flat values; what is none of the
      ;; cases goes on too, for the host to refuse.
      (local.set $kind (i32.load8_u $plugin (local.get $result)))
      (if (result i32) (i32.eqz (local.get $kind))
        (then
          (call $emit (i32.const 0)
            (i32.load $plugin offset=8 (local.get $result))
            (i64.load32_u $plugin offset=12 (local.get $result))
            (i32.const 0) (i32.const 0)))
        (else
          (local.set $case (i32.load8_u $plugin offset=8 (local.get $result)))
          (if (result i32) (i32.eq (local.get $case) (i32.const 2))
            (then ;; retry-after
              (call $emit (local.get $kind) (local.get $case)
                (i64.load $plugin offset=16 (local.get $result))
                (i32.load $plugin offset=24 (local.get $result))
                (i32.load $plugin offset=28 (local.get $result))))
            (else
              (call $emit (local.get $kind) (local.get $case)
                (i64.load32_u $plugin offset=16 (local.get $result))
                (i32.load $plugin offset=20 (local.get $result))
                (i32.const 0))))))
      (local.set $more)
      (call $post_return (local.get $result))
      (br_if $message (local.get $more)))))
