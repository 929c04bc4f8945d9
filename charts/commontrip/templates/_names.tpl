{{/* Names and labels. A release's name is unique in its namespace; so objects are called <release>-<component>. */}}
{{- define "commontrip.base" -}}
{{- .Values.fullnameOverride | default .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{/* Of a component; takes root and component, as all that follow with "component" in their comment. */}}
{{- define "commontrip.name" -}}
{{ include "commontrip.base" .root }}-{{ .component }}
{{- end }}

{{/* The same rule as "redis.name" in charts/redis. */}}
{{- define "commontrip.redis.name" -}}
{{- .Values.redis.fullnameOverride | default (printf "%s-redis" (.Release.Name | trunc 50 | trimSuffix "-")) -}}
{{- end }}

{{/* Where a component is asked. */}}
{{- define "commontrip.address" -}}
http://{{ include "commontrip.name" . }}:{{ int (index .root.Values .component).service.port }}
{{- end }}

{{/* By which a Service, a policy or a Deployment finds the pods of a component. */}}
{{- define "commontrip.selector" -}}
app.kubernetes.io/name: commontrip
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Of the objects of a component. */}}
{{- define "commontrip.labels" -}}
{{ include "commontrip.podLabels" . }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{/* Of the pods of a component: those that do not change with the chart's version. */}}
{{- define "commontrip.podLabels" -}}
{{ include "commontrip.selector" . }}
app.kubernetes.io/part-of: commontrip
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{- with .root.Values.global.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* A component's ServiceAccount. */}}
{{- define "commontrip.serviceAccountName" -}}
{{- .values.serviceAccount.name | default (ternary (include "commontrip.name" .) "default" .values.serviceAccount.create) -}}
{{- end }}

{{/* A component's image. A digest beats the tag. */}}
{{- define "commontrip.image" -}}
{{- with .root.Values.global.imageRegistry }}{{ . }}/{{ end -}}
{{- $image := .values.image -}}
{{ $image.repository }}{{ if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default .root.Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "commontrip.pullSecrets" -}}
{{- with concat .Values.imagePullSecrets .Values.global.imagePullSecrets | uniq -}}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* A number or a word as an environment variable has it: Helm reads 10485760 as 1.048576e+07. */}}
{{- define "commontrip.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- end }}
