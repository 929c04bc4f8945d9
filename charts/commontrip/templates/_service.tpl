{{/* Around a component's pods, one template for all: takes root, component and values. */}}
{{- define "commontrip.component" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "commontrip.name" . }}
  labels:
    {{- include "commontrip.labels" . | nindent 4 }}
data:
  {{- include "commontrip.config" . | nindent 2 }}
{{- if .values.serviceAccount.create }}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "commontrip.serviceAccountName" . }}
  labels:
    {{- include "commontrip.labels" . | nindent 4 }}
  {{- with .values.serviceAccount.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}
---
{{ include "commontrip.services" . }}
---
{{ include "commontrip.deployment" . }}
{{- if .values.autoscaling.enabled }}
---
{{ include "commontrip.autoscaler" . }}
{{- end }}
{{- if and .values.podDisruptionBudget.enabled (gt (include "commontrip.leastReplicas" . | int) 1) }}
---
{{ include "commontrip.disruptionBudget" . }}
{{- end }}
{{- end }}

{{/* One to be asked by, and a headless one through which each pod can be asked and scraped. */}}
{{- define "commontrip.services" -}}
{{- $service := .values.service -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "commontrip.name" . }}
  labels:
    {{- include "commontrip.labels" . | nindent 4 }}
  {{- with $service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ $service.type | default "ClusterIP" }}
  ports:
    - name: http
      port: {{ int $service.port }}
      targetPort: http
      protocol: TCP
      appProtocol: http
      {{- with $service.nodePort }}
      nodePort: {{ int . }}
      {{- end }}
  selector:
    {{- include "commontrip.selector" . | nindent 4 }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ include "commontrip.name" . }}-pods
  labels:
    {{- include "commontrip.labels" . | nindent 4 }}
    commontrip.io/pods: "true"
spec:
  type: ClusterIP
  clusterIP: None
  ports:
    - name: http
      port: {{ int .values.port }}
      targetPort: http
      protocol: TCP
      appProtocol: http
    - name: metrics
      port: {{ int .root.Values.server.metricsPort }}
      targetPort: metrics
      protocol: TCP
  selector:
    {{- include "commontrip.selector" . | nindent 4 }}
{{- end }}

{{- define "commontrip.leastReplicas" -}}
{{- if .values.autoscaling.enabled }}{{ int .values.autoscaling.minReplicas }}{{ else }}{{ int .values.replicas }}{{ end -}}
{{- end }}

{{- define "commontrip.autoscaler" -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ include "commontrip.name" . }}
  labels:
    {{- include "commontrip.labels" . | nindent 4 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ include "commontrip.name" . }}
  minReplicas: {{ int .values.autoscaling.minReplicas }}
  maxReplicas: {{ int .values.autoscaling.maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target:
          type: Utilization
          averageUtilization: {{ int .values.autoscaling.targetCpuPercent }}
  behavior:
    scaleDown:
      stabilizationWindowSeconds: {{ int .values.autoscaling.scaleDownStabilizationSeconds }}
{{- end }}

{{- define "commontrip.disruptionBudget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "commontrip.name" . }}
  labels:
    {{- include "commontrip.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "commontrip.selector" . | nindent 6 }}
{{- end }}
