{{/* The gateway's configuration as YAML: what follows from the other values, and `config` laid over it. */}}
{{- define "pointsman.config" -}}
{{- $admin := dict "host" "127.0.0.1" "port" 8485 }}
{{- $server := dict "host" "0.0.0.0" "port" 8484 "workers" .Values.gateway.workers "admin" $admin }}
{{- $server = merge $server (dict "drain_notice_seconds" .Values.gateway.noticeSeconds "drain_seconds" .Values.gateway.drainSeconds) }}
{{- $_ := set $server "tool_state" "both" }}{{/* a client's next turn may come to another pod */}}
{{- if include "pointsman.redis" . }}
{{- $_ := set $server "redis" "${POINTSMAN_REDIS}" }}
{{- end }}
{{- $backends := dict }}{{- $routes := dict }}
{{- $root := . }}
{{- range .Values.engines }}
{{- $engine := include "pointsman.engine" (list $root .) | fromYaml }}
{{- $_ := set $backends .name (include "pointsman.backend" (list $root $engine) | fromYaml) }}
{{- $route := default .name .route }}
{{- $known := get $routes $route | default (dict "targets" list "policy" "least_busy") }}
{{- $target := dict "backend" .name "model" $route "weight" (default 1 .weight) }}
{{- with .context }}
{{- $_ := set $target "context" . }}
{{- end }}
{{- $_ := set $known "targets" (append $known.targets $target) }}
{{- if or .policy .kvEvents }}
{{- $_ := set $known "policy" (default "kv_aware" .policy) }}
{{- end }}
{{- $_ := set $routes $route $known }}
{{- end }}
{{- $made := dict "server" $server "backends" $backends "routes" $routes "keys" (include "pointsman.keys" . | fromYamlArray) }}
{{- mergeOverwrite $made (deepCopy .Values.config) | toYaml }}
{{- end }}

{{/* The backend of an engine. Arguments: the root, the engine with its defaults. */}}
{{- define "pointsman.backend" -}}
{{- $root := index . 0 }}{{- $engine := index . 1 -}}
urls: k8s:{{ $root.Release.Namespace }}/{{ include "pointsman.fullname" $root }}-{{ $engine.name }}:http/v1
kind: {{ $engine.kind }}
local: true
slots: {{ $engine.slots }}
{{- if $engine.kvEvents }}
kv_events: {endpoint: "tcp://{host}:5557", replay: "tcp://{host}:5558"}
{{- end }}
{{- end }}

{{/* `keys` as the gateway wants them: the text of each is a variable, unless its hash is there. */}}
{{- define "pointsman.keys" -}}
{{- range $index, $key := .Values.keys }}
{{- $shown := omit $key "secretKey" }}
{{- if not $key.hash }}
{{- $_ := set $shown "key" (printf "${POINTSMAN_KEY_%d}" $index) }}
{{- end }}
- {{ toJson $shown }}
{{- end }}
{{- end }}

{{/* Whether there is a Redis: a text that is not empty. */}}
{{- define "pointsman.redis" -}}
{{- if or .Values.redis.enabled .Values.redis.url .Values.redis.secretKey }}yes{{ end }}
{{- end }}

{{/* The variables of a gateway: where it may write, keys, what the configuration asks for. */}}
{{- define "pointsman.env" -}}
- {name: HOME, value: /var/lib/pointsman}
- {name: XDG_STATE_HOME, value: /var/lib/pointsman/state}
- {name: XDG_DATA_HOME, value: /var/lib/pointsman/data}
- {name: XDG_CACHE_HOME, value: /var/cache/pointsman}
- {name: HF_HOME, value: /var/cache/pointsman/huggingface}
{{- $root := . }}
{{- range $index, $key := .Values.keys }}
{{- if not $key.hash }}
{{ include "pointsman.secretEnv" (list $root (printf "POINTSMAN_KEY_%d" $index) (default $key.name $key.secretKey)) }}
{{- end }}
{{- end }}
{{- if .Values.redis.secretKey }}
{{ include "pointsman.secretEnv" (list . "POINTSMAN_REDIS" .Values.redis.secretKey) }}
{{- else if include "pointsman.redis" . }}
- name: POINTSMAN_REDIS
  value: {{ default (printf "redis://%s-redis:6379/0" (include "pointsman.fullname" .)) .Values.redis.url | quote }}
{{- end }}
{{- range .Values.secretEnv }}
{{ include "pointsman.secretEnv" (list $root . .) }}
{{- end }}
{{- range $name, $value := .Values.gateway.env }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{/* Whether the data port speaks TLS. */}}
{{- define "pointsman.scheme" -}}
{{- if dig "server" "tls" nil .Values.config }}HTTPS{{ else }}HTTP{{ end }}
{{- end }}

{{/* Values that contradict each other: one clear sentence each. */}}
{{- define "pointsman.check" -}}
{{- if gt (len (compact (list .Values.redis.url .Values.redis.secretKey (ternary "own" "" .Values.redis.enabled)))) 1 }}
{{- fail "redis: say one of `enabled`, `url` and `secretKey`" }}
{{- end }}
{{- if and .Values.secrets.existingSecret .Values.secrets.values }}
{{- fail "secrets: say `existingSecret` or `values`, not both" }}
{{- end }}
{{- $names := list }}
{{- range .Values.engines }}
{{- if has .name $names }}
{{- fail (printf "engines: the name `%s` is there twice; each set needs its own" .name) }}
{{- end }}
{{- $names = append $names .name }}
{{- $volumes := compact (list (dig "models" "size" "" .) (dig "models" "existingClaim" "" .) (dig "models" "hostPath" "" .)) }}
{{- if gt (len $volumes) 1 }}
{{- fail (printf "engines: `%s` says more than one of models.size, models.existingClaim and models.hostPath; say one" .name) }}
{{- end }}
{{- if and (eq .kind "llama-server") .kvEvents }}
{{- fail (printf "engines: `%s` is a llama-server, which has no KV events; leave kvEvents out" .name) }}
{{- end }}
{{- end }}
{{- if and .Values.serviceMonitor.enabled (not (has .Values.serviceMonitor.key (include "pointsman.keyNames" . | fromJsonArray))) }}
{{- fail (printf "serviceMonitor.key: `%s` is none of `keys` that has its text in the Secret" .Values.serviceMonitor.key) }}
{{- end }}
{{- end }}

{{- define "pointsman.keyNames" -}}
{{- $names := list }}
{{- range .Values.keys }}{{ if not .hash }}{{ $names = append $names .name }}{{ end }}{{ end }}
{{- toJson $names }}
{{- end }}
