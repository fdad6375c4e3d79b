{{- define "ssa-agent.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default .Release.Name }}{{ else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{- define "ssa-agent.selector" -}}
app.kubernetes.io/name: ssa-agent
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ssa-agent.labels" -}}
{{ include "ssa-agent.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}
