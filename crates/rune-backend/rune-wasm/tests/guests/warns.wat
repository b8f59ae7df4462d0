;; An agent of the world `rune:agent` that writes to its standard error and answers the same.
(component
  (import "wasi:io/error@0.2.0" (instance $errors
    (export "error" (type (sub resource)))))
  (alias export $errors "error" (type $error))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (export "output-stream" (type $stream (sub resource)))
    (alias outer 1 $error (type $the_error))
    (export "error" (type $cause (eq $the_error)))
    (type $failure (variant (case "last-operation-failed" (own $cause)) (case "closed")))
    (export "stream-error" (type $failed (eq $failure)))
    (export "[method]output-stream.blocking-write-and-flush" (func
      (param "self" (borrow $stream)) (param "contents" (list u8)) (result (result (error $failed)))))))
  (alias export $streams "output-stream" (type $output))
  (import "wasi:cli/stderr@0.2.0" (instance $stderr
    (alias outer 1 $output (type $the_output))
    (export "output-stream" (type $out (eq $the_output)))
    (export "get-stderr" (func (result (own $out))))))

  (core module $libc
    (memory (export "memory") 1)
    (global $next (mut i32) (i32.const 1024))
    (func (export "realloc")
      (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
      (local $at i32)
      (local.set $at
        (i32.and
          (i32.add (global.get $next) (i32.sub (local.get $align) (i32.const 1)))
          (i32.sub (i32.const 0) (local.get $align))))
      (global.set $next (i32.add (local.get $at) (local.get $size)))
      (local.get $at)))
  (core instance $libc (instantiate $libc))
  (core func $get (canon lower (func $stderr "get-stderr")))
  (core func $write (canon lower (func $streams "[method]output-stream.blocking-write-and-flush")
    (memory (core memory $libc "memory"))))

  (core module $code
    (import "libc" "memory" (memory 1))
    (import "host" "get" (func $get (result i32)))
    (import "host" "write" (func $write (param i32 i32 i32 i32)))
    (data (i32.const 8) "careful")
    ;; The answer is at 128.
    (func (export "run") (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
      (call $write (call $get) (i32.const 8) (i32.const 7) (i32.const 64))
      (i32.store (i32.const 136) (i32.const 8))
      (i32.store (i32.const 140) (i32.const 7))
      (i32.const 128)))
  (core instance $code (instantiate $code
    (with "libc" (instance $libc))
    (with "host" (instance (export "get" (func $get)) (export "write" (func $write))))))

  (type $f (record (field "code" string) (field "message" string)))
  (export $failure "failure" (type $f))
  (type $r (record (field "id" string) (field "session-id" string) (field "input" string) (field "text" string)))
  (export $request "request" (type $r))
  (type $a (variant (case "text" string) (case "json" string)))
  (export $answer "answer" (type $a))
  (func $run (param "request" $request) (result (result $answer (error $failure)))
    (canon lift (core func $code "run") (memory (core memory $libc "memory"))
      (realloc (core func $libc "realloc")) string-encoding=utf8))
  (instance $handler
    (export "failure" (type $failure))
    (export "request" (type $request))
    (export "answer" (type $answer))
    (export "run" (func $run)))
  (export "rune:agent/handler@0.1.0" (instance $handler)))
