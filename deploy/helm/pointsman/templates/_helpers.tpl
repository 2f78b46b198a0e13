{{- define "pointsman.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 30 | trimSuffix "-" }}
{{- end }}

{{/* What everything of this release is called, or begins with: with an engine's name behind it at most 52 characters, as a StatefulSet wants. */}}
{{- define "pointsman.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 30 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 30 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 30 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{/* By what a part is selected. Arguments: the root, the part. */}}
{{- define "pointsman.selector" -}}
app.kubernetes.io/name: {{ include "pointsman.name" (index . 0) }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "pointsman.labels" -}}
{{- $root := index . 0 }}
{{- include "pointsman.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "pointsman.image" -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag }}{{ end }}
{{- end }}

{{- define "pointsman.pullSecrets" -}}
{{- with .Values.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "pointsman.serviceAccount" -}}
{{- default (include "pointsman.fullname" .) .Values.serviceAccount.name }}
{{- end }}

{{- define "pointsman.secret" -}}
{{- default (include "pointsman.fullname" .) .Values.secrets.existingSecret }}
{{- end }}

{{/* A variable that is an entry of the Secret. Arguments: the root, the variable, the entry. */}}
{{- define "pointsman.secretEnv" -}}
- name: {{ index . 1 }}
  valueFrom:
    secretKeyRef: {name: {{ include "pointsman.secret" (index . 0) }}, key: {{ index . 2 }}}
{{- end }}

{{/* The namespaces in which the gateway may look for endpoints, as a JSON list. */}}
{{- define "pointsman.namespaces" -}}
{{- $own := ternary (list .Release.Namespace) list (gt (len .Values.engines) 0) }}
{{- concat $own .Values.discovery.namespaces | uniq | toJson }}
{{- end }}

{{/* What holds for each container: no rights, nothing to write but what is mounted. */}}
{{- define "pointsman.container" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
privileged: false
readOnlyRootFilesystem: true
{{- end }}

{{/* What holds for each pod. Argument: uid and gid. */}}
{{- define "pointsman.pod" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* Where pods may stand. Argument: values with nodeSelector, tolerations, affinity, priorityClassName. */}}
{{- define "pointsman.placing" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* Over nodes and zones as evenly as can be. Arguments: the root, the part. */}}
{{- define "pointsman.spread" -}}
{{- $root := index . 0 }}{{- $part := index . 1 }}
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ . }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- include "pointsman.selector" (list $root $part) | nindent 6 }}
{{- end }}
{{- end }}
