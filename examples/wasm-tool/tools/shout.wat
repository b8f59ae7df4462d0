;; A component with the world `rune:tool` that answers its input in capital letters.
(component
  (core module $code
    (memory (export "memory") 1)
    (data (i32.const 100) "shout0.1.0Answers its input in capital letters.{\"type\":\"object\"}")
    (global $next (mut i32) (i32.const 4096))
    (func (export "realloc")
      (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
      (local $at i32)
      (local.set $at
        (i32.and
          (i32.add (global.get $next) (i32.sub (local.get $align) (i32.const 1)))
          (i32.sub (i32.const 0) (local.get $align))))
      (global.set $next (i32.add (local.get $at) (local.get $size)))
      ;; One page more than needed, so that the next call rarely has to ask.
      (if (i32.gt_u (global.get $next) (i32.shl (memory.size) (i32.const 16)))
        (then
          (if (i32.eq
                (memory.grow (i32.add (i32.const 1) (i32.shr_u (local.get $size) (i32.const 16))))
                (i32.const -1))
            (then (unreachable)))))
      (local.get $at))
    (func (export "run") (param $text i32) (param $length i32) (result i32)
      (local $at i32) (local $end i32) (local $letter i32)
      (local.set $at (local.get $text))
      (local.set $end (i32.add (local.get $text) (local.get $length)))
      (block $done
        (loop $next_letter
          (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
          (local.set $letter (i32.load8_u (local.get $at)))
          (if (i32.lt_u (i32.sub (local.get $letter) (i32.const 97)) (i32.const 26))
            (then (i32.store8 (local.get $at) (i32.sub (local.get $letter) (i32.const 32)))))
          (local.set $at (i32.add (local.get $at) (i32.const 1)))
          (br $next_letter)))
      ;; result<string, string> at 16: 0 is `ok`.
      (i32.store8 (i32.const 16) (i32.const 0))
      (i32.store (i32.const 20) (local.get $text))
      (i32.store (i32.const 24) (local.get $length))
      (i32.const 16))
    (func (export "describe") (result i32)
      ;; Four texts at 32: where, how long.
      (i32.store (i32.const 32) (i32.const 100)) (i32.store (i32.const 36) (i32.const 5))
      (i32.store (i32.const 40) (i32.const 105)) (i32.store (i32.const 44) (i32.const 5))
      (i32.store (i32.const 48) (i32.const 110)) (i32.store (i32.const 52) (i32.const 37))
      (i32.store (i32.const 56) (i32.const 147)) (i32.store (i32.const 60) (i32.const 17))
      (i32.const 32)))
  (core instance $code (instantiate $code))
  (type $described (record
    (field "name" string) (field "version" string) (field "description" string)
    (field "input-schema" string)))
  (export $metadata "metadata" (type $described))
  (func $describe (result $metadata)
    (canon lift (core func $code "describe") (memory (core memory $code "memory")) string-encoding=utf8))
  (func $run (param "input" string) (result (result string (error string)))
    (canon lift (core func $code "run") (memory (core memory $code "memory"))
      (realloc (core func $code "realloc")) string-encoding=utf8))
  (instance $handler
    (export "metadata" (type $metadata))
    (export "describe" (func $describe))
    (export "run" (func $run)))
  (export "rune:tool/handler@0.1.0" (instance $handler)))
