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

{{- define "ssa-agent.atTheEnd" -}}
{{- $plaintext := (.Values.uninstall).plaintext | default false }}
{{- if and $plaintext .Release.IsInstall }}
{{- fail "uninstall.plaintext is for an upgrade right before the uninstall: each agent that ends opens its node from then on" }}
{{- end }}
{{- ternary "--plaintext" "--leave-guards" $plaintext }}
{{- end }}

{{- define "ssa-agent.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
