{{/* An engine with what its kind has by default, as YAML. Arguments: the root, the engine as the values say it. */}}
{{- define "pointsman.engine" -}}
{{- $root := index . 0 }}{{- $said := index . 1 }}
{{- $base := dict "replicas" 1 "workload" "StatefulSet" "kvEvents" false "startupSeconds" 3600 "drainSeconds" 300 "gpuResource" "nvidia.com/gpu" "models" dict }}
{{- $engine := mergeOverwrite $base (deepCopy (index $root.Values.engineDefaults $said.kind)) (deepCopy $said) }}
{{- $_ := set $engine "served" (default $said.name $said.route) }}
{{- $_ := set $engine "at" (dig "models" "mountPath" "/models" $engine) }}
{{- toYaml $engine }}
{{- end }}

{{/* What an engine's container runs, as a YAML list. Argument: the engine with its defaults. */}}
{{- define "pointsman.command" -}}
{{- $gpus := int .gpus }}
{{- if eq .kind "vllm" }}
{{- toYaml (list "vllm" "serve" .model "--served-model-name" .served "--host" "0.0.0.0" "--port" "8000" "--shutdown-timeout" (int .drainSeconds | toString)) }}
{{- with .context }}
- --max-model-len
- {{ int . | quote }}
{{- end }}
{{- if gt $gpus 1 }}
- --tensor-parallel-size
- {{ $gpus | quote }}
{{- end }}
{{- if .kvEvents }}
- --kv-events-config
- {{ include "pointsman.kvEvents" (dict "enable_kv_cache_events" true) | squote }}
- --enable-prompt-tokens-details
{{- end }}
{{- else if eq .kind "sglang" }}
{{- toYaml (list "python3" "-m" "sglang.launch_server" "--model-path" .model "--served-model-name" .served "--host" "0.0.0.0" "--port" "8000" "--enable-metrics") }}
{{- with .context }}
- --context-length
- {{ int . | quote }}
{{- end }}
{{- if gt $gpus 1 }}
- --tp
- {{ $gpus | quote }}
{{- end }}
{{- if .kvEvents }}
- --kv-events-config
- {{ include "pointsman.kvEvents" dict | squote }}
- --enable-cache-report
{{- end }}
{{- else }}
{{- toYaml (list "/app/llama-server" (ternary "--model" "--hf-repo" (hasPrefix "/" .model)) .model "--alias" .served "--host" "0.0.0.0" "--port" "8000" "--metrics" "--parallel" (int .slots | toString)) }}
{{- with .context }}
- --ctx-size
- {{ mul (int .) (int $.slots) | quote }}
{{- end }}
{{- end }}
{{- range .args }}
- {{ . | quote }}
{{- end }}
{{- end }}

{{/* Where an engine publishes what becomes of its KV cache: the gateway's words, see backends/engines. */}}
{{- define "pointsman.kvEvents" -}}
{{- merge (dict "publisher" "zmq" "endpoint" "tcp://*:5557" "replay_endpoint" "tcp://*:5558" "buffer_steps" 10000 "topic" "") . | toJson }}
{{- end }}

{{/* An engine's pods. Arguments: the root, the engine with its defaults. */}}
{{- define "pointsman.enginePod" -}}
{{- $root := index . 0 }}{{- $engine := index . 1 }}
{{- $part := printf "engine-%s" $engine.name -}}
metadata:
  labels: {{- include "pointsman.selector" (list $root $part) | nindent 4 }} # no version: another chart must not restart engines
    pointsman.io/role: engine
  {{- with $engine.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- with include "pointsman.pullSecrets" $root }}{{ . | trim | nindent 2 }}{{ end }}
  automountServiceAccountToken: false
  enableServiceLinks: false # a service called `vllm` would set VLLM_PORT
  terminationGracePeriodSeconds: {{ add 15 $engine.drainSeconds 60 }}
  securityContext: {{- include "pointsman.pod" $engine.user | nindent 4 }}
  {{- with $engine.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with include "pointsman.placing" $engine }}{{ . | trim | nindent 2 }}{{ end }}
  {{- if ne $engine.workload "DaemonSet" }}
  topologySpreadConstraints: {{- include "pointsman.spread" (list $root $part) | trim | nindent 4 }}
  {{- end }}
  containers:
    - name: engine
      image: {{ include "pointsman.image" $engine.image }}
      imagePullPolicy: IfNotPresent
      command: {{- include "pointsman.command" $engine | nindent 8 }}
      env: {{- include "pointsman.engineEnv" . | trim | nindent 8 }}
      ports:
        - {name: http, containerPort: 8000, protocol: TCP}
        {{- if $engine.kvEvents }}
        - {name: kv-events, containerPort: 5557, protocol: TCP}
        - {name: kv-replay, containerPort: 5558, protocol: TCP}
        {{- end }}
      securityContext: {{- include "pointsman.container" $root | nindent 8 }}
      startupProbe: # until the model is loaded
        httpGet: {path: /health, port: http}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: {{ div (add $engine.startupSeconds 4) 5 }}
      readinessProbe:
        httpGet: {path: /health, port: http}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 3
      livenessProbe: # slow is not dead: what is loaded for minutes must not be ended in a hurry
        httpGet: {path: /health, port: http}
        periodSeconds: 15
        timeoutSeconds: 15
        failureThreshold: 8
      lifecycle: # gateways hear that it goes, and send nothing new; then SIGTERM: vLLM and SGLang end what is under way, llama-server does not
        preStop: {sleep: {seconds: {{ ternary $engine.drainSeconds 15 (eq $engine.kind "llama-server") }}}}
      resources: {{- include "pointsman.engineResources" $engine | nindent 8 }}
      volumeMounts:
        - {name: scratch, mountPath: /scratch}
        - {name: tmp, mountPath: /tmp}
        - {name: shm, mountPath: /dev/shm}
        - {name: models, mountPath: {{ $engine.at }}{{ if $engine.models.readOnly }}, readOnly: true{{ end }}}
  volumes:
    - {name: scratch, emptyDir: {sizeLimit: 10Gi}}
    - {name: tmp, emptyDir: {sizeLimit: 10Gi}}
    - {name: shm, emptyDir: {medium: Memory, sizeLimit: {{ $engine.shm }}}}
    {{- with include "pointsman.models" (list $root $engine) }}{{ . | trim | nindent 4 }}{{ end }}
{{- end }}

{{/* Where models lie. A StatefulSet with `size` has a volume for each replica from its template, and none here. */}}
{{- define "pointsman.models" -}}
{{- $root := index . 0 }}{{- $engine := index . 1 }}
{{- $models := $engine.models }}
{{- if $models.hostPath }}
- {name: models, hostPath: {path: {{ $models.hostPath }}, type: Directory}}
{{- else if $models.existingClaim }}
- {name: models, persistentVolumeClaim: {claimName: {{ $models.existingClaim }}}}
{{- else if not $models.size }}
- {name: models, emptyDir: {}}
{{- else if ne $engine.workload "StatefulSet" }}
- {name: models, persistentVolumeClaim: {claimName: {{ include "pointsman.fullname" $root }}-{{ $engine.name }}-models}}
{{- end }}
{{- end }}

{{/* The claim's spec for `models.size`. Argument: the engine. */}}
{{- define "pointsman.claim" -}}
accessModes: {{ default (list "ReadWriteOnce") .models.accessModes | toJson }}
{{- with .models.storageClassName }}
storageClassName: {{ . }}
{{- end }}
resources: {requests: {storage: {{ .models.size }}}}
{{- end }}

{{- define "pointsman.engineResources" -}}
{{- $gpu := ternary (dict .gpuResource (int .gpus)) dict (gt (int .gpus) 0) }}
{{- dict "requests" (merge dict .resources.requests $gpu) "limits" (merge dict .resources.limits $gpu) | toYaml }}
{{- end }}

{{/* The uid has no name in the image, and the root file system is read-only: programs are told where home is and who they are. */}}
{{- define "pointsman.engineEnv" -}}
{{- $root := index . 0 }}{{- $engine := index . 1 }}
- {name: HOME, value: /scratch}
- {name: USER, value: engine}
- {name: LOGNAME, value: engine}
- {name: HF_HOME, value: {{ $engine.at }}}
- {name: LLAMA_CACHE, value: {{ $engine.at }}}
- {name: DO_NOT_TRACK, value: "1"}
{{- if eq $engine.kind "vllm" }}
- {name: VLLM_NO_USAGE_STATS, value: "1"}
{{- else if eq $engine.kind "sglang" }}
- {name: SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION, value: "false"} # a probe must cost nothing
{{- end }}
{{- range $engine.secretEnv }}
{{ include "pointsman.secretEnv" (list $root . .) }}
{{- end }}
{{- range $name, $value := $engine.env }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}
