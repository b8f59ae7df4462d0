;; A component of the world `rune:agent` (crates/rune-backend/rune-wasm/wit/agent.wit), by hand:
;;
;;   draft:   ask with the conversation and all tools; call what the model calls, until it answers
;;   review:  ask once more, without tools, about the draft; what comes of it is streamed and is the answer
;;
;; In Rust, Go, Python or JavaScript a generator makes bindings of the WIT file and the same is a dozen lines;
;; docs/programmable-agents.md has the Rust form.
(component
  (import "rune:agent/model@0.1.0" (instance $model
    (type $f (record (field "code" string) (field "message" string)))
    (export "failure" (type $failure (eq $f)))
    (type $c (record (field "id" string) (field "name" string) (field "input" string)))
    (export "tool-call" (type $tool-call (eq $c)))
    (type $r (record (field "call-id" string) (field "content" string) (field "is-error" bool)
      (field "output" (option string))))
    (export "tool-result" (type $tool-result (eq $r)))
    (type $d (record (field "name" string) (field "description" string) (field "input-schema" string)))
    (export "tool-definition" (type $tool-definition (eq $d)))
    (type $m (variant (case "input") (case "history") (case "user" string) (case "assistant" string)
      (case "reply" u32) (case "results" (list $tool-result))))
    (export "message" (type $message (eq $m)))
    (type $t (variant (case "all") (case "only" (list string))))
    (export "tool-choice" (type $tool-choice (eq $t)))
    (type $q (record (field "system" (option string)) (field "messages" (list $message))
      (field "tools" $tool-choice) (field "own-tools" (list $tool-definition)) (field "model" (option string))
      (field "max-output-tokens" (option u32)) (field "output-schema" (option string)) (field "stream" bool)))
    (export "question" (type $question (eq $q)))
    (type $s (enum "end-turn" "tool-use" "max-tokens" "refusal" "pause"))
    (export "stop-reason" (type $stop-reason (eq $s)))
    (type $u (record (field "input-tokens" u64) (field "output-tokens" u64)))
    (export "usage" (type $usage (eq $u)))
    (type $a (record (field "step" u32) (field "text" string) (field "tool-calls" (list $tool-call))
      (field "stop" $stop-reason) (field "usage" $usage)))
    (export "reply" (type $reply (eq $a)))
    (export "ask" (func (param "question" $question) (result (result $reply (error $failure)))))))
  (import "rune:agent/tools@0.1.0" (instance $tools
    (type $c (record (field "id" string) (field "name" string) (field "input" string)))
    (export "tool-call" (type $tool-call (eq $c)))
    (type $r (record (field "call-id" string) (field "content" string) (field "is-error" bool)
      (field "output" (option string))))
    (export "tool-result" (type $tool-result (eq $r)))
    (export "call-all" (func (param "calls" (list $tool-call)) (result (list $tool-result))))))
  (import "rune:agent/log@0.1.0" (instance $log
    (type $l (enum "debug" "info" "warn" "error"))
    (export "level" (type $level (eq $l)))
    (export "log" (func (param "level" $level) (param "message" string)))))

  ;; Memory, and what the host asks for room in it.
  (core module $libc
    (memory (export "memory") 2)
    (global $next (mut i32) (i32.const 65536))
    (func (export "realloc")
      (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
      (local $at i32)
      (local.set $at
        (i32.and
          (i32.add (global.get $next) (i32.sub (local.get $align) (i32.const 1)))
          (i32.sub (i32.const 0) (local.get $align))))
      (global.set $next (i32.add (local.get $at) (local.get $size)))
      (if (i32.gt_u (global.get $next) (i32.shl (memory.size) (i32.const 16)))
        (then
          (if (i32.eq
                (memory.grow (i32.add (i32.const 1) (i32.shr_u (local.get $size) (i32.const 16))))
                (i32.const -1))
            (then (unreachable)))))
      (local.get $at)))
  (core instance $libc (instantiate $libc))

  (core func $ask (canon lower (func $model "ask")
    (memory (core memory $libc "memory")) (realloc (core func $libc "realloc")) string-encoding=utf8))
  (core func $call_all (canon lower (func $tools "call-all")
    (memory (core memory $libc "memory")) (realloc (core func $libc "realloc")) string-encoding=utf8))
  (core func $log (canon lower (func $log "log") (memory (core memory $libc "memory")) string-encoding=utf8))

  (core module $agent
    (import "libc" "memory" (memory 2))
    (import "host" "ask" (func $ask (param i32 i32)))
    (import "host" "call-all" (func $call_all (param i32 i32 i32)))
    (import "host" "log" (func $log (param i32 i32 i32)))

    (data (i32.const 100) "Review the draft: is it right, and does it answer the question? Answer the user.")
    (data (i32.const 200) "the draft is there")

    ;; At 1024 the question, at 1104 the reply, at 1160 a list of results, at 1176 the answer, from 2048 on messages.
    (global $messages (mut i32) (i32.const 0))

    ;; Adds a message: 0 input, 1 history, 2 user, 3 assistant, 4 reply, 5 results; with what belongs to it.
    (func $say (param $case i32) (param $one i32) (param $two i32)
      (local $at i32)
      (local.set $at (i32.add (i32.const 2048) (i32.mul (global.get $messages) (i32.const 12))))
      (i32.store (local.get $at) (local.get $case))
      (i32.store offset=4 (local.get $at) (local.get $one))
      (i32.store offset=8 (local.get $at) (local.get $two))
      (global.set $messages (i32.add (global.get $messages) (i32.const 1))))

    ;; Asks with the messages so far. Answers whether there is a reply.
    (func $question (param $no_tools i32) (param $stream i32) (result i32)
      (i32.store (i32.const 1036) (i32.const 2048))
      (i32.store (i32.const 1040) (global.get $messages))
      (i32.store8 (i32.const 1044) (local.get $no_tools))
      (i32.store8 (i32.const 1096) (local.get $stream))
      (call $ask (i32.const 1024) (i32.const 1104))
      (i32.eqz (i32.load8_u (i32.const 1104))))

    ;; The answer: the text of the last reply, or the failure that came in its place.
    (func $answer (result i32)
      (if (i32.load8_u (i32.const 1104))
        (then
          (i32.store8 (i32.const 1176) (i32.const 1))
          (memory.copy (i32.const 1180) (i32.const 1112) (i32.const 16)))
        (else
          (i32.store (i32.const 1184) (i32.load (i32.const 1116)))
          (i32.store (i32.const 1188) (i32.load (i32.const 1120)))))
      (i32.const 1176))

    ;; `request` is four texts: id, session-id, input, text.
    (func (export "run") (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
      (call $say (i32.const 1) (i32.const 0) (i32.const 0))
      (call $say (i32.const 0) (i32.const 0) (i32.const 0))
      (block $drafted
        (loop $again
          (if (i32.eqz (call $question (i32.const 0) (i32.const 0))) (then (return (call $answer))))
          (call $say (i32.const 4) (i32.load (i32.const 1112)) (i32.const 0))
          (br_if $drafted (i32.eqz (i32.load (i32.const 1128))))
          (call $call_all (i32.load (i32.const 1124)) (i32.load (i32.const 1128)) (i32.const 1160))
          (call $say (i32.const 5) (i32.load (i32.const 1160)) (i32.load (i32.const 1164)))
          (br $again)))
      (call $log (i32.const 1) (i32.const 200) (i32.const 18))
      (call $say (i32.const 2) (i32.const 100) (i32.const 80))
      (drop (call $question (i32.const 1) (i32.const 1)))
      (call $answer)))
  (core instance $agent (instantiate $agent
    (with "libc" (instance $libc))
    (with "host" (instance
      (export "ask" (func $ask))
      (export "call-all" (func $call_all))
      (export "log" (func $log))))))

  (type $f (record (field "code" string) (field "message" string)))
  (export $failure "failure" (type $f))
  (type $r (record (field "id" string) (field "session-id" string) (field "input" string) (field "text" string)))
  (export $request "request" (type $r))
  (type $a (variant (case "text" string) (case "json" string)))
  (export $answer "answer" (type $a))
  (func $run (param "request" $request) (result (result $answer (error $failure)))
    (canon lift (core func $agent "run") (memory (core memory $libc "memory"))
      (realloc (core func $libc "realloc")) string-encoding=utf8))
  (instance $handler
    (export "failure" (type $failure))
    (export "request" (type $request))
    (export "answer" (type $answer))
    (export "run" (func $run)))
  (export "rune:agent/handler@0.1.0" (instance $handler)))
